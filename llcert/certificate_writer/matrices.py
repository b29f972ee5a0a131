"""Linear nodes as sparse matrices, entry by entry what the operator multiplies by in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from llcert.errors import UnsupportedModel
from llcert.ir import Node
from llcert.program import Term
from llcert.spectral.proof.explicit_matrix import explicit_matrix

Matrix = Any  # scipy.sparse.csr_array, which has no types

MEMORY = 2.0**33
"""Bytes that the entries of one matrix may take while it is computed."""


def matrix_of(node: Node, device: torch.device) -> Matrix:
    """The matrix of a linear node, without its offset. Raises UnsupportedModel for NaN or infinity, and where it takes
    more than `MEMORY`."""
    found = explicit_matrix(Term(node.inputs[0], (node,), node, node), device, MEMORY)
    if found is None:
        raise UnsupportedModel(f"--proof: {node.op.label} {node.name}: its matrix is too large, or not finite")
    entries = sparse.csr_array(found.entries.cpu().numpy()) if found.dense else sparse.csr_array(found.entries)
    entries.data = np.ldexp(entries.data, found.exponent)
    entries.sum_duplicates()
    entries.eliminate_zeros()
    entries.sort_indices()
    return entries


def placed(places: NDArray[Any], rows: int, columns: int) -> Matrix:
    """The 0/1 matrix that moves entry i to `places[i]`."""
    return sparse.csr_array((np.ones(columns), (places, np.arange(columns))), shape=(rows, columns))


def summed(parts: Sequence[Matrix]) -> Matrix:
    """The sum of matrices of one shape."""
    return sparse.csr_array(sum(parts[1:], parts[0]))


def row_norms(matrix: Matrix, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norms of the rows restricted to the columns that are marked by 1, `[batch, rows]`; columns: `[batch, columns]`.

    They are 1e-12 larger than computed, so upper bounds but for underflow, which the caller's slack pays for.
    """
    squares = sparse.csr_array((matrix.data**2, matrix.indices, matrix.indptr), shape=matrix.shape)
    return np.sqrt((squares @ columns.T).T) * (1 + 1e-12)
