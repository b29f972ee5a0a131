"""Regions of values (box and ball), linear relaxations of activations over them, and which bounds share a row."""
