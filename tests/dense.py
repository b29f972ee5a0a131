"""Brute force: maps written out as matrices, and their exact norms."""

from __future__ import annotations

import torch
from torch import Tensor

from llcert.program import Term
from llcert.spectral import Masked


def matrix(term: Term) -> Tensor:
    """The term's map as a matrix `[rows, columns]` in float64, one column for each unit vector."""
    size = 1
    for s in term.columns:
        size *= s
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *term.columns)
    return term.apply(unit).flatten(1).T


def exact_norm(masked: Masked, image: int = 0) -> float:
    """The largest singular value of one image's masked map, by dense SVD."""
    assert isinstance(masked.map, Term)
    dense = masked.rows[image].flatten()[:, None] * matrix(masked.map) * masked.columns[image].flatten()
    return float(torch.linalg.matrix_norm(dense, 2))
