"""Lowering: blocks, their terms as matrices, and what is cut where."""

from __future__ import annotations

import pytest
import torch
from dense import matrix
from random_graphs import random_image, random_network
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Input, Network, Node, apply
from llcert.ops import Add, Affine, Concat, Conv, Extreme, Leaky, Linear, Reshape, Take, Tanh, relu
from llcert.program import Block, Program, lower


def _weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _dense(node: Node, rows: int, seed: int = 0) -> Node:
    return apply(Linear(_weight(rows, node.shape[-1], seed=seed), _weight(rows, seed=seed + 1)), node)


def _image(size: int = 3) -> Node:
    return apply(Input((size,)))


def _lowered(output: Node) -> Program:
    """The program of a network, after checking it against the network itself."""
    network = Network(output)
    program = lower(network, dtype=torch.float64)
    _agrees(program, network, _weight(5, *network.input.shape, seed=9))
    return program


def _agrees(program: Program, network: Network, images: Tensor) -> None:
    if program.output.shape == network.output.shape:
        assert torch.allclose(program.logits(images), network(images), atol=1e-12)
    values = {program.input: images}
    for block in program.blocks:
        z = block.value(values)
        zeros = {s: torch.zeros_like(values[s][:1]) for s in block.sources}
        parts = sum((t.apply(values[t.source]) for t in block.terms), block.value(zeros))
        assert torch.allclose(parts, z, atol=1e-10), f"{block.label}: its terms do not add up to its value"
        values[block.node] = z if block.activation is None else block.activation(z)


def _kinds(program: Program) -> list[str]:
    return [b.label for b in program.blocks]


@pytest.mark.parametrize("seed", range(40))
def test_terms_are_their_matrices(seed: int) -> None:
    network = random_network(seed)
    program = lower(network, dtype=torch.float64)
    _agrees(program, network, random_image(network, seed))
    for term in (t for b in program.blocks for t in b.terms):
        dense = matrix(term)
        shape = term.output.shape
        y, x = _weight(2, *shape, seed=seed), _weight(2, *term.columns, seed=seed)
        assert torch.allclose(term.adjoint(y).flatten(1), y.flatten(1) @ dense, atol=1e-10)
        assert torch.allclose(term.apply(x).flatten(1), x.flatten(1) @ dense.T, atol=1e-10)
        bound = x.abs().flatten(1) @ dense.abs().T
        assert (term.magnitude(x.abs()).flatten(1) >= bound - 1e-10).all()
        weighted = (term.magnitude(x.abs()) * y).sum(), (x.abs() * term.magnitude_adjoint(y)).sum()
        assert torch.allclose(*weighted, atol=1e-9)
        if term.is_scaled_permutation:
            assert ((dense != 0).sum(0) <= 1).all()
            assert ((dense != 0).sum(1) <= 1).all()


def test_a_chain_folds_into_one_block() -> None:
    hidden = apply(relu(), apply(Affine(torch.tensor(2.0)), _dense(_image(), 4)))
    program = _lowered(_dense(_dense(hidden, 5), 2))
    assert _kinds(program) == ["Linear + ReLU", "Linear + Linear"]
    assert [len(b.terms) for b in program.blocks] == [1, 1]
    assert [b.terms[0].source for b in program.blocks] == [program.input, program.blocks[0].node]


def test_a_residual_sum_has_a_term_for_each_source() -> None:
    image = _image()
    program = _lowered(apply(Add(), _dense(apply(relu(), _dense(image, 4)), 3), image))
    last = program.blocks[-1]
    assert set(last.sources) == {program.input, program.blocks[0].node}
    assert not last.disjoint


def test_branches_of_one_source_are_one_map() -> None:
    image = _image()
    program = _lowered(apply(Add(), _dense(image, 2), _dense(image, 2, seed=3)))
    (term,) = program.blocks[0].terms
    assert torch.allclose(matrix(term), _weight(2, 3) + _weight(2, 3, seed=3))


def test_branches_that_cancel_are_nothing() -> None:
    image = _image()
    program = _lowered(apply(Add(), image, apply(Affine(torch.tensor(-1.0)), image)))
    assert (matrix(program.blocks[0].terms[0]) == 0).all()


def test_a_concatenation_of_sources_is_disjoint() -> None:
    image = _image()
    hidden = apply(relu(), _dense(image, 4))
    program = _lowered(_dense(apply(Concat(0), hidden, image, _dense(hidden, 2)), 2))
    block = next(b for b in program.blocks if b.disjoint)
    rows = torch.stack([(matrix(t) != 0).any(1) for t in block.terms])
    assert (rows.sum(0) <= 1).all(), "terms of a disjoint block share a row"
    assert len(block.terms) == 2


def test_parts_of_a_concatenation_that_mix_sources_are_cut() -> None:
    image = _image()
    hidden = apply(relu(), image)
    program = _lowered(apply(Concat(0), apply(Add(), image, hidden), hidden))
    for block in (b for b in program.blocks if b.disjoint):
        rows = torch.stack([(matrix(t) != 0).any(1) for t in block.terms])
        assert (rows.sum(0) <= 1).all()


def test_a_concatenation_of_one_source_is_one_term() -> None:
    image = _image()
    program = _lowered(apply(Concat(0), image, image))
    assert torch.linalg.matrix_norm(matrix(program.blocks[0].terms[0]), 2) == pytest.approx(2**0.5)


def test_a_value_used_by_an_activation_and_a_skip() -> None:
    z = _dense(_image(), 4)
    program = _lowered(apply(Add(), apply(relu(), z), z))
    assert [b.activation is not None for b in program.blocks] == [True, False]
    assert set(program.blocks[1].sources) == {program.input, program.blocks[0].node}


def test_a_sum_used_by_an_activation_and_a_skip_is_cut() -> None:
    image = _image()
    total = apply(Add(), _dense(apply(relu(), image), 3), image)
    program = _lowered(apply(Add(), apply(relu(), total), total))
    assert [len(b.terms) for b in program.blocks] == [1, 2, 1, 2]


def test_activation_on_activation() -> None:
    program = _lowered(apply(relu(), apply(relu(), _dense(_image(), 4))))
    assert program.blocks[0].activation is not None
    assert len(program.blocks[0].body) == 1


def test_activation_behind_an_activation_starts_from_its_value() -> None:
    program = _lowered(apply(Tanh(), apply(relu(), _dense(_image(), 4))))
    assert [len(b.body) for b in program.blocks] == [1, 0]
    assert program.blocks[1].terms[0].is_scaled_permutation


def test_activation_on_the_input_and_at_the_end() -> None:
    program = _lowered(apply(Tanh(), _dense(apply(relu(), _image()), 2)))
    assert program.blocks[0].sources == (program.input,)
    assert program.blocks[-1].activation is not None
    assert program.classes == 2


def test_a_final_relu_becomes_a_zero_to_beat() -> None:
    hidden = _dense(_image(), 4)
    program, images = _lowered(apply(relu(), hidden)), _weight(50, 3, seed=9)
    logits, plain = program.logits(images), Network(hidden)(images)
    assert program.classes == 4
    assert torch.allclose(logits[:, :4], plain)
    assert (logits[:, 4:] == 0).all()


def test_moves_are_told_from_sums() -> None:
    image = _image(4)
    moved = apply(Take(0, (2, 0)), apply(Affine(torch.tensor(-3.0)), apply(Reshape((4,)), image)))
    assert _lowered(moved).blocks[0].terms[0].is_scaled_permutation
    assert not _lowered(apply(Take(0, (2, 2)), image)).blocks[0].terms[0].is_scaled_permutation
    assert not _lowered(_dense(image, 2)).blocks[0].terms[0].is_scaled_permutation


def test_parameters_are_shared_where_type_and_device_agree() -> None:
    weight = torch.ones(2, 3)
    network = Network(apply(Linear(weight), _image()))
    same = lower(network).blocks[0].body[0].op.tensors()["weight"]
    other = lower(network, dtype=torch.float64).blocks[0].body[0].op.tensors()["weight"]
    assert same is weight
    assert other.dtype == torch.float64


def test_gradients_reach_the_weights_of_the_network() -> None:
    weight = torch.ones(2, 3, requires_grad=True)
    lower(Network(apply(Linear(weight), _image()))).logits(torch.ones(1, 3)).sum().backward()
    assert weight.grad is not None
    assert (weight.grad == 1).all()


def test_images_and_convolutions() -> None:
    image = apply(Input((2, 5, 5)))
    hidden = apply(relu(), apply(Conv(_weight(3, 2, 3, 3), _weight(3), (2, 2), (1, 1)), image))
    _lowered(_dense(apply(Reshape((27,)), hidden), 2))


def test_deep_networks_are_lowered_in_one_go() -> None:
    node, scale, phi = _image(1), Affine(torch.tensor(1.0)), relu()
    for _ in range(2500):
        node = Node(phi, (Node(scale, (node,), shape=(1,)),), shape=(1,))
    program = lower(Network(Node(scale, (node,), shape=(1,))))
    assert len(program.blocks) == 2501
    assert program.logits(torch.ones(1, 1)) == 1


def test_a_deep_linear_chain_is_one_term() -> None:
    node, shift = _image(1), Affine(torch.tensor(-1.0), torch.tensor(1.0))
    for _ in range(5000):
        node = Node(shift, (node,), shape=(1,))
    (block,) = lower(Network(node)).blocks
    (term,) = block.terms
    assert term.apply(torch.ones(1, 1)) == 1
    assert term.adjoint(torch.ones(1, 1)) == 1


def _refused(output: Node, match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        lower(Network(output))


def test_what_cannot_be_bounded_is_refused() -> None:
    image = _image()
    _refused(apply(Extreme(True), image, apply(relu(), image)), "no bound is known")
    _refused(image, "there is no layer")
    _refused(apply(Add(), image, _image()), "2 inputs")
    _refused(Node(relu(), (), shape=(2,)), "does not depend on the input")


def test_labels_name_what_counts() -> None:
    block: Block = _lowered(apply(Affine(torch.tensor(2.0)), _image())).blocks[0]
    assert block.label == "identity"


def test_no_two_terms_are_equal_whoever_reads_the_same_value() -> None:
    hidden = _dense(_image(4), 4)
    readers = [apply(relu(), hidden), apply(Tanh(), hidden), apply(Leaky(torch.tensor(1.5)), hidden)]
    program = _lowered(_dense(apply(Concat(0), *readers), 2))
    terms = [t for b in program.blocks for t in b.terms]
    assert len(set(terms)) == len(terms)
    assert [t.owner for b in program.blocks for t in b.terms] == [b.node for b in program.blocks for _ in b.terms]
    same = [t for t in terms if t.output is terms[0].output]
    assert len(same) == 3
    assert len({(t.source, t.nodes) for t in same}) == 1


def test_multiplications_are_those_of_a_forward_pass() -> None:
    dense = apply(Linear(torch.ones(3, 6)), apply(relu(), apply(Linear(torch.ones(6, 4)), apply(Input((4,))))))
    assert lower(Network(dense)).multiplications == 6 * 4 + 3 * 6
    convolution = apply(Conv(torch.zeros(2, 3, 5, 5), torch.zeros(2)), apply(Input((3, 9, 8))))
    assert lower(Network(convolution)).multiplications == (2 * 5 * 4) * (3 * 5 * 5)
