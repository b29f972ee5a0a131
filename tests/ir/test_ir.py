"""The network as a value: order, evaluation, rewriting, placing."""

from __future__ import annotations

import pytest
import torch

from llcert.errors import UnsupportedModel
from llcert.ir import Input, Network, Node, apply, evaluate, place, rewrite, topological
from llcert.ops import Add, Affine, Concat, Expand, Linear, relu

DEPTH = 5000


def _twice() -> Affine:
    return Affine(scale=torch.tensor(2.0))


def _diamond() -> tuple[Node, Node, Node, Node]:
    image = apply(Input((3,)))
    left, right = apply(_twice(), image), apply(relu(), image)
    return image, left, right, apply(Add(), left, right)


@pytest.fixture(scope="module")
def deep() -> Node:
    node, op = apply(Input((1,))), Affine(shift=torch.tensor(1.0))
    for _ in range(DEPTH):
        node = Node(op, (node,), shape=(1,))
    return node


def test_order_has_inputs_first_and_everything_once() -> None:
    image, left, right, output = _diamond()
    order = topological(output)
    assert len(order) == len(set(order)) == 4
    assert set(order) == {image, left, right, output}
    for node in order:
        assert all(order.index(i) < order.index(node) for i in node.inputs)


def test_an_input_used_twice_by_one_node() -> None:
    image = apply(Input((2,)))
    doubled = apply(Add(), image, image)
    assert topological(doubled) == [image, doubled]
    assert evaluate(doubled, torch.ones(1, 2)).tolist() == [[2, 2]]


def test_a_ladder_of_sharing_is_walked_once() -> None:
    node = apply(Input((1,)))
    for _ in range(60):
        node = Node(Add(), (node, node), shape=(1,))
    assert len(topological(node)) == 61
    assert evaluate(node, torch.ones(1, 1, dtype=torch.float64)) == 2.0**60


def test_evaluate_computes_the_diamond() -> None:
    assert evaluate(_diamond()[-1], torch.tensor([[-1.0, 0.0, 2.0]])).tolist() == [[-2, 0, 6]]


def test_deep_graphs_need_no_recursion(deep: Node) -> None:
    assert len(topological(deep)) == DEPTH + 1
    assert evaluate(deep, torch.zeros(1, 1)) == DEPTH
    assert rewrite(deep, [lambda node: None]) is deep
    assert evaluate(place(deep, "cpu", torch.float64), torch.zeros(1, 1, dtype=torch.float64)) == DEPTH


def test_rewrite_leaves_what_no_rule_touches() -> None:
    image, left, right, output = _diamond()
    new = rewrite(output, [lambda node: Node(relu(), node.inputs, shape=node.shape) if node.op == left.op else None])
    assert new is not output
    assert new.inputs[1] is right
    assert topological(new)[0] is image
    assert evaluate(output, -torch.ones(1, 3)).tolist() == [[-2] * 3], "the old network is still there"
    assert evaluate(new, -torch.ones(1, 3)).tolist() == [[0] * 3]


def test_rewrite_goes_on_until_no_rule_fires() -> None:
    def halve(node: Node) -> Node | None:
        if isinstance(node.op, Expand) and node.op.shape[0] > 1:
            return apply(Expand((node.op.shape[0] // 2,)), *node.inputs)
        return None

    assert rewrite(apply(Expand((16,)), apply(Input((1,)))), [halve]).shape == (1,)


def test_shapes_come_from_the_operator() -> None:
    image = apply(Input((2, 3)))
    assert apply(Linear(torch.zeros(5, 3)), image).shape == (2, 5)
    assert apply(Concat(1), image, image).shape == (2, 6)
    with pytest.raises(RuntimeError):
        apply(Linear(torch.zeros(5, 4)), image)
    with pytest.raises(UnsupportedModel, match="more than llcert can hold"):
        apply(Expand((2**28,)), apply(Input((1,))))


def test_placing_shares_parameters_that_are_in_place_and_converts_the_others() -> None:
    weight = torch.ones(2, 2)
    node = apply(Linear(weight), apply(Input((2,))))
    same, other = place(node, "cpu", torch.float32), place(node, "cpu", torch.float64)
    assert same.op.tensors()["weight"] is weight
    assert other.op.tensors()["weight"].dtype == torch.float64
    assert weight.dtype == torch.float32


def test_a_network_knows_its_input_classes_and_type() -> None:
    node = apply(Linear(torch.ones(4, 3)), apply(Input((3,))))
    network = Network(node)
    assert (network.input.shape, network.classes, network.dtype) == ((3,), 4, torch.float32)
    assert Network(place(node, "cpu", torch.float64)).dtype == torch.float32
    assert Network(apply(Linear(torch.ones(4, 3)), apply(Input((3,), torch.float64)))).dtype == torch.float64
    assert network(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert [n.op.label for n in network.operators()] == ["Linear"]


def test_a_network_without_input_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="does not depend on the input"):
        _ = Network(Node(relu(), (), shape=(2,))).input


def test_the_input_computes_nothing() -> None:
    with pytest.raises(TypeError):
        Input((2,))(torch.zeros(1, 2))
