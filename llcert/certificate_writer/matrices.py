"""Linear nodes as sparse matrices, exactly."""

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
from llcert.spectral.explicit import written_out

Matrix = Any  # scipy.sparse.csr_array, which has no types
MEMORY = 2.0**33
"""Bytes that the entries of one matrix may take while it is written out."""


def matrix_of(node: Node, device: torch.device) -> Matrix:
    """The matrix of a linear node, entry by entry what its operator multiplies by. Raises UnsupportedModel for NaN or
    infinity, and where it is too large."""
    found = written_out(Term(node.inputs[0], (node,), node, node), device, MEMORY)
    if found is None:
        raise UnsupportedModel(f"--proof: {node.op.label} {node.name}: its matrix is too large, or not finite")
    entries = sparse.csr_array(found.entries.cpu().numpy()) if found.dense else sparse.csr_array(found.entries)
    entries.data = np.ldexp(entries.data, found.exponent)
    entries.sum_duplicates()
    entries.eliminate_zeros()
    entries.sort_indices()
    return entries


def placed(places: NDArray[Any], rows: int, columns: int) -> Matrix:
    """The matrix that puts entry i at `places[i]`."""
    return sparse.csr_array((np.ones(columns), (places, np.arange(columns))), shape=(rows, columns))


def summed(parts: Sequence[Matrix]) -> Matrix:
    """The sum of matrices of one shape."""
    return sparse.csr_array(sum(parts[1:], parts[0]))


def row_norms(matrix: Matrix, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bounds of the norms of the rows on the columns that are marked by 1, `[batch, rows]`; columns: `[batch,
    columns]`. What rounding does is left to the slack of whoever asks."""
    squares = sparse.csr_array((matrix.data**2, matrix.indices, matrix.indptr), shape=matrix.shape)
    return np.sqrt((squares @ columns.T).T) * (1 + 1e-12)
