"""Spectral norms of masked linear maps: estimates, proofs, probable bounds (docs/method.md, section 7).

Knows maps and masks, no operator and no network.
"""

from llcert.spectral.circulant import torus_bound
from llcert.spectral.lanczos import Lanczos
from llcert.spectral.linear_map import LinearMap, Masked, Provable
from llcert.spectral.masked_only import MaskedOnly
from llcert.spectral.norm import Norm, Side, Solver, weakest
from llcert.spectral.power import PowerIteration, random_start
from llcert.spectral.random_lanczos import RandomLanczos
from llcert.spectral.remembered import Remembered
from llcert.spectral.verified import Verified

__all__ = [
    "Lanczos",
    "LinearMap",
    "Masked",
    "MaskedOnly",
    "Norm",
    "PowerIteration",
    "Provable",
    "RandomLanczos",
    "Remembered",
    "Side",
    "Solver",
    "Verified",
    "random_start",
    "torus_bound",
    "weakest",
]
