"""Backward passes: linear bound propagation over box and ball, its slopes, intermediate bounds, branch and bound.

*Below* a value or a block is what lies nearer to the image; an *objective* is a linear function of values of a
network whose least value over the ball is wanted, a row of the matrix C in CROWN.
"""
