"""Data movement from one source: the source, one Reshape or one Take, or left alone."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import canonical, image, labels, same_function

from llcert.ir import Node, apply, topological
from llcert.ops import Concat, Pad, Reshape, Take, Transpose, relu
from llcert.passes.movement import shortest


def split(node: Node, axis: int, *lengths: int) -> list[Node]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [apply(Take(axis, tuple(range(e - n, e))), node) for e, n in zip(ends, lengths, strict=True)]


def test_round_trips_vanish() -> None:
    x = image(4, 3, 2)
    for before in (
        apply(Concat(0), *split(x, 0, 1, 3)),
        apply(Transpose((2, 0, 1)), apply(Transpose((1, 2, 0)), x)),
        apply(Reshape((4, 3, 2)), apply(Reshape((6, 4)), x)),
        apply(Take(1, (2, 1, 0)), apply(Take(1, (2, 1, 0)), x)),
        apply(Take(2, (0, 1)), x),
        apply(Transpose((0, 1, 2)), x),
    ):
        assert canonical(before) is x


def test_chains_become_one() -> None:
    x = image(4, 3, 2)
    reshapes = apply(Reshape((24,)), apply(Reshape((6, 4)), apply(Reshape((2, 12)), x)))
    assert labels(canonical(reshapes)) == ["Reshape"]
    assert labels(canonical(apply(Transpose((1, 0)), apply(Reshape((4, 1)), image(4))))) == ["Reshape"]
    stepped = apply(Take(0, (1,)), apply(Take(0, (1, 3)), x))
    assert canonical(stepped).op == Take(0, (3,))
    swapped = apply(Concat(0), *split(x, 0, 1, 3)[::-1])
    assert canonical(swapped).op == Take(0, (1, 2, 3, 0))


def test_a_pixel_shuffle_and_a_padding_stay() -> None:
    shuffle = apply(
        Reshape((1, 4, 4)), apply(Transpose((0, 3, 1, 4, 2)), apply(Reshape((1, 2, 2, 2, 2)), image(4, 2, 2)))
    )
    assert labels(canonical(shuffle)) == ["Reshape", "Transpose", "Reshape"]
    assert shortest(apply(Pad(((0, 0),)), image(3))) is None


def test_two_sources_stay_and_the_part_behind_their_meeting_is_simplified() -> None:
    a, b = apply(relu(), image(3)), apply(Reshape((3,)), image(3, 1))
    met = apply(Concat(0), a, b)
    assert shortest(met) is None
    assert shortest(apply(Concat(0), *split(met, 0, 2, 4))) is met


def test_sharing_lets_branches_be_recognised() -> None:
    x = image(4)
    left, right = apply(relu(), x), apply(relu(), x)
    before = apply(Concat(0), apply(Take(0, (0, 1)), left), apply(Take(0, (2, 3)), right))
    assert labels(canonical(before)) == ["ReLU"]


@st.composite
def movements(draw: st.DrawFn) -> Node:
    node = image(*draw(st.sampled_from([(4,), (2, 3), (4, 1, 2), (2, 2, 3)])))
    for _ in range(draw(st.integers(1, 6))):
        rank, shape = len(node.shape), node.shape
        axis = draw(st.integers(0, rank - 1))
        kind = draw(st.sampled_from(["transpose", "reshape", "take", "concat", "rejoin"]))
        match kind:
            case "transpose":
                node = apply(Transpose(tuple(draw(st.permutations(range(rank))))), node)
            case "reshape":
                flat = torch.Size(shape).numel()
                size = draw(st.sampled_from([n for n in range(1, flat + 1) if flat % n == 0]))
                node = apply(Reshape((size, flat // size)), node)
            case "take":
                indices = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=shape[axis]))
                node = apply(Take(axis, tuple(indices)), node)
            case "concat" if torch.Size(shape).numel() < 100:
                node = apply(Concat(axis), node, node)
            case _ if shape[axis] > 1:
                cut = draw(st.integers(1, shape[axis] - 1))
                parts = split(node, axis, cut, shape[axis] - cut)
                node = apply(Concat(axis), *parts)
    return node


@settings(max_examples=100, deadline=None)
@given(movements())
def test_any_movement_keeps_its_function_and_grows_no_node(before: Node) -> None:
    after = canonical(before)
    assert same_function(before, after)
    assert len(topological(after)) <= len(topological(before))
