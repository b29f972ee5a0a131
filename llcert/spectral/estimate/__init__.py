"""Estimates of norms by iterations that approach the largest singular value from below (docs/method.md, section 7.1).

An estimate costs two products with the map a step. It carries no guarantee: in exact arithmetic it is at most the norm,
and usually just below it.
"""
