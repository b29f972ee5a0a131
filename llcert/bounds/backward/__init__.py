"""Backward passes: linear bound propagation over box and ball, its slopes, intermediate bounds, branch and bound."""
