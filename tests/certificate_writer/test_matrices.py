"""Matrices of linear nodes against products with unit vectors, and norms of their rows against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawing import Draw
from random_layers import KINDS, random_layer

from llcert.certificate_writer.matrices import matrix_of, placed, row_norms, summed
from llcert.errors import UnsupportedModel
from llcert.ir import Input, LinearOp, apply
from llcert.ops import Linear
from llcert.program import Term

CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_the_matrix_of_a_node_is_what_the_node_multiplies_by(seed: int) -> None:
    term = random_layer(seed).masked.map
    if not isinstance(term, Term):
        pytest.skip("maps side by side are no term")
    for node in term.nodes:
        if not isinstance(node.op, LinearOp):
            continue
        shape = node.inputs[0].shape
        unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        expected = node.op.linear(unit).flatten(1).T.numpy()
        found = matrix_of(node, CPU)
        assert np.array_equal(found.toarray(), expected), seed
        assert (found.data != 0).all()
        assert found.has_sorted_indices


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_is_refused_by_name(poison: float) -> None:
    node = apply(Linear(torch.tensor([[1.0, poison]], dtype=torch.float64)), apply(Input((2,))), name="last")
    with pytest.raises(UnsupportedModel, match="--proof: Linear last"):
        matrix_of(node, CPU)


def test_places_and_sums() -> None:
    first, second = placed(np.array([2, 0]), 4, 2), placed(np.array([1, 2]), 4, 2)
    assert first.toarray().tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]
    assert summed([first, second]).toarray().tolist() == [[0, 1], [1, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_norms_of_rows_are_upper_bounds_and_close(seed: int) -> None:
    draw = Draw(seed)
    node = apply(Linear(draw.normal(7, 9)), apply(Input((9,))))
    marked = (torch.rand(3, 9, generator=draw.generator, dtype=torch.float64) < 0.5).double().numpy()
    found = row_norms(matrix_of(node, CPU), marked)
    weight = node.op.tensors()["weight"].numpy().astype(np.longdouble)
    truth = np.sqrt((weight[None] ** 2 * marked[:, None]).sum(2))
    assert found.shape == (3, 7)
    assert (found >= truth).all()
    assert (found <= truth * (1 + 1e-11)).all()
