"""Regions of values (box and ball), linear relaxations of activations over them, and which bounds share a row.

All of it lies below the operators, because an activation returns its own relaxations (`llcert.ir.Activation`); what a
backward pass does with them is in `llcert.bounds.backward`.
"""
