"""Brute force: maps written out as matrices, and their exact norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.numerics.tensors import flat
from llcert.program import Term
from llcert.spectral import Masked


@dataclass(frozen=True, eq=False)
class Matrix:
    """A dense map that knows its rounding."""

    entries: Tensor
    underflow: float = 2.0**-1000

    @property
    def columns(self) -> tuple[int, ...]:
        return (self.entries.shape[1],)

    @property
    def roundings(self) -> int:
        return self.entries.shape[1]

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.entries.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.entries

    def magnitude(self, x: Tensor) -> Tensor:
        return x @ self.entries.abs().T

    def paths(self, x: Tensor) -> Tensor:
        return x @ (self.entries != 0).double().T


def whole(entries: Tensor, images: int = 1) -> Masked:
    """The map of a matrix with all its rows and columns, for some images."""
    return Masked(Matrix(entries), *(torch.ones(images, n, dtype=torch.float64) for n in entries.shape))


def matrix(term: Term) -> Tensor:
    """The term's map as a matrix `[rows, columns]` in float64, one column for each unit vector."""
    size = 1
    for s in term.columns:
        size *= s
    unit = torch.eye(size, dtype=torch.float64).reshape(size, *term.columns)
    return flat(term.apply(unit)).T


def exact_norm(masked: Masked, image: int = 0) -> float:
    """The largest singular value of one image's masked map, by dense SVD."""
    assert isinstance(masked.map, Term)
    dense = masked.rows[image].flatten()[:, None] * matrix(masked.map) * masked.columns[image].flatten()
    return float(torch.linalg.matrix_norm(dense, 2))
