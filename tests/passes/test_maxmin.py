"""Maxima and minima of slices, recognised as MaxMin and GroupSort; imports of whole modules test the rest."""

from __future__ import annotations

import pytest
import torch
from pass_graphs import canonical, image, labels

from llcert.ir import Node, apply
from llcert.ops import Clamp, Concat, Extreme, GroupSort, MaxMin, Reshape, Take, Transpose, relu
from llcert.passes import maxmin


def extremes(a: Node, b: Node) -> tuple[Node, Node]:
    return apply(Extreme(True), a, b), apply(Extreme(False), b, a)


def halves(z: Node, axis: int = 0) -> tuple[Node, Node]:
    n = z.shape[axis]
    return apply(Take(axis, tuple(range(n // 2))), z), apply(Take(axis, tuple(range(n // 2, n))), z)


def neighbours(z: Node) -> tuple[Node, Node]:
    n = z.shape[0]
    return apply(Take(0, tuple(range(0, n, 2))), z), apply(Take(0, tuple(range(1, n, 2))), z)


def stacked(a: Node, b: Node) -> Node:
    (n, *rest) = a.shape
    apart = (apply(Reshape((n, 1, *rest)), part) for part in (a, b))
    return apply(Reshape((2 * n, *rest)), apply(Concat(1), *apart))


def test_halves() -> None:
    for axis in (0, 1):
        before = apply(Concat(axis), *extremes(*halves(image(4, 6), axis)))
        assert canonical(before).op == MaxMin(axis)


def test_pairs() -> None:
    assert canonical(stacked(*extremes(*neighbours(image(6, 2))))).op == MaxMin(0, pairs=True)
    flat = apply(Reshape((12,)), stacked(*extremes(*neighbours(image(6, 2)))))
    assert labels(canonical(flat)) == ["MaxMin", "Reshape"]


def test_pairs_by_reductions_of_a_split_axis() -> None:
    split = apply(Reshape((3, 2, 2)), image(6, 2))
    a, b = apply(Take(1, (0,)), split), apply(Take(1, (1,)), split)
    before = apply(Reshape((6, 2)), apply(Concat(1), *extremes(a, b)))
    assert canonical(before).op == MaxMin(0, pairs=True)


@pytest.mark.parametrize("pairs", [False, True])
def test_clipped_keeps_the_thresholds_themselves(pairs: bool) -> None:
    high, low = torch.rand(3, 1, requires_grad=True), -torch.rand(3, 2)
    largest, smallest = extremes(*(neighbours if pairs else halves)(image(6, 2)))
    parts = apply(Clamp(high=high), largest), apply(Clamp(low=low), smallest)
    found = canonical(stacked(*parts) if pairs else apply(Concat(0), *parts))
    assert labels(found) == ["clipped MaxMin"]
    assert isinstance(found.op, MaxMin)
    assert found.op.pairs is pairs
    assert found.op.high is high
    assert found.op.low is low


def test_clipped_after_the_new_axis() -> None:
    largest, smallest = (apply(Reshape((3, 1, 2)), e) for e in extremes(*neighbours(image(6, 2))))
    clipped = apply(Clamp(high=torch.tensor(0.3)), largest), apply(Clamp(low=torch.tensor(-0.2)), smallest)
    found = canonical(apply(Reshape((6, 2)), apply(Concat(1), *clipped)))
    assert labels(found) == ["clipped MaxMin"]


def test_minimum_first_leaves_one_permutation() -> None:
    largest, smallest = extremes(*halves(image(4)))
    assert labels(canonical(apply(Concat(0), smallest, largest))) == ["MaxMin", "Take"]
    largest, smallest = extremes(*neighbours(image(4)))
    assert labels(canonical(stacked(smallest, largest))) == ["MaxMin", "Take"]


def test_channels_last_leave_no_transposition() -> None:
    high = torch.rand(2)
    a, b = halves(apply(Transpose((1, 2, 0)), image(4, 3, 5)), 2)
    largest, smallest = extremes(a, b)
    joined = apply(Concat(2), apply(Clamp(high=high), largest), smallest)
    assert labels(canonical(apply(Transpose((2, 0, 1)), joined))) == ["clipped MaxMin"]


def declined(largest: Node, smallest: Node) -> bool:
    return maxmin.pair_of_extremes(apply(Concat(0), largest, smallest)) is None


def test_what_is_no_maxmin_is_declined_but_stays_sound() -> None:
    x = image(6)
    a, b, c = (apply(Take(0, indices), x) for indices in ((0, 1), (2, 3), (4, 5)))
    largest, smallest = extremes(a, b)
    assert declined(largest, apply(Extreme(False), a, c))
    assert declined(largest, largest)
    assert declined(apply(Clamp(low=torch.zeros(())), largest), smallest)
    assert declined(largest, apply(relu(), apply(relu(), smallest)))
    assert declined(largest, apply(Clamp(high=torch.zeros(())), smallest))
    assert declined(largest, a)
    for before in (
        apply(Concat(0), largest, apply(Extreme(False), a, c)),
        apply(Concat(0), apply(Clamp(low=torch.zeros(())), largest), smallest),
        apply(Concat(0), largest, smallest, a),
    ):
        assert "Extreme" not in labels(canonical(before))


def test_a_lone_extreme_is_half_a_maxmin() -> None:
    a, b = neighbours(image(6, 2))
    for largest in (True, False):
        assert labels(canonical(apply(Extreme(largest), a, b))) == ["Take", "MaxMin", "Take"]
    scalar_a, scalar_b = (apply(Reshape(()), apply(Take(0, (i,)), image(2))) for i in range(2))
    assert labels(canonical(apply(Extreme(True), scalar_a, scalar_a))) != ["Extreme"]
    assert maxmin.lone_extreme(apply(Extreme(True), scalar_a, scalar_b)) is not None


def test_maxima_and_minima_used_apart_share_one_maxmin() -> None:
    largest, smallest = extremes(*halves(image(4)))
    before = apply(Concat(0), smallest, apply(Take(0, (1,)), largest), smallest)
    assert labels(canonical(before)).count("MaxMin") == 1


def test_a_real_axis_of_two_stays() -> None:
    assert labels(canonical(apply(MaxMin(1), image(3, 2)))) == ["MaxMin"]
    assert maxmin.neighbours(apply(MaxMin(1), image(3, 2))) is None
    trained = MaxMin(1, high=torch.rand(3, 1, requires_grad=True))
    assert maxmin.neighbours(apply(trained, apply(Reshape((3, 2)), image(6)))) is None


def test_groups() -> None:
    sorted_groups = apply(GroupSort(1, 3), apply(Reshape((2, 3, 2)), image(6, 2)))
    assert canonical(apply(Reshape((6, 2)), sorted_groups)).op == GroupSort(0, 3)
    assert maxmin.grouped(apply(GroupSort(1, 3), image(2, 3))) is None
    assert maxmin.grouped(apply(GroupSort(1, 2), apply(Reshape((2, 4)), image(8)))) is None
