"""Sets of values and functions on them: box and ball, linear relaxations of activations, the layout of objectives."""
