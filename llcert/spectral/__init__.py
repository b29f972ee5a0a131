"""Norms of masked linear maps. Knows maps and masks, no operator and no network."""

from llcert.spectral.linear_map import LinearMap, Masked
from llcert.spectral.norm import Norm, Side, Solver
from llcert.spectral.power import PowerIteration, random_start

__all__ = ["LinearMap", "Masked", "Norm", "PowerIteration", "Side", "Solver", "random_start"]
