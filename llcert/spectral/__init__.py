"""Spectral norms of masked linear maps `diag(w) A diag(v)`, many images at a time (docs/method.md, section 7).

A map is given by its action and its adjoint; nothing here knows a network, and only `torus_bound` an operator. A solver
(`Solver`) takes a batch of masked maps and says of every norm it returns on which side of the truth it lies (`Side`):

| solver | `Side` | how | for |
|---|---|---|---|
| `PowerIteration` | ESTIMATE, from below | Algorithm 1 of Huang et al. 2021 | comparison with the paper |
| `Lanczos` | ESTIMATE, from below | Golub-Kahan bidiagonalisation | every estimate of a certification |
| `RandomLanczos` | PROBABLE, from above | Lanczos from a random start (section 7.5) | assurance probabilistic |
| `VerifiedCholesky` | UPPER, proved | Cholesky factorisation of `tau I - A* A` | assurance deterministic |
| `MaskedOnly` | that of its solver | asks another solver where something is masked | whole norms that are known |
| `CachingSolver` | that of its solver | asks another solver where the masks have changed | repeated propagation |

`torus_bound` proves the norm of a whole convolution by a circulant embedding. `llcert.spectral.proof` says which proof
is used when.
"""

from llcert.spectral.caching import CachingSolver
from llcert.spectral.estimate.lanczos import Lanczos
from llcert.spectral.estimate.power import PowerIteration
from llcert.spectral.estimate.start import random_start
from llcert.spectral.linear_map import LinearMap, Masked, Provable
from llcert.spectral.masked_only import MaskedOnly
from llcert.spectral.norm import Norm, Side, Solver, weakest
from llcert.spectral.proof.circulant import torus_bound
from llcert.spectral.proof.verified_cholesky import VerifiedCholesky
from llcert.spectral.random_lanczos import RandomLanczos
from llcert.spectral.scaled_permutation import scaled_permutation_norm

__all__ = [
    "CachingSolver",
    "Lanczos",
    "LinearMap",
    "Masked",
    "MaskedOnly",
    "Norm",
    "PowerIteration",
    "Provable",
    "RandomLanczos",
    "Side",
    "Solver",
    "VerifiedCholesky",
    "random_start",
    "scaled_permutation_norm",
    "torus_bound",
    "weakest",
]
