"""Final operators that keep the order of the classes."""

from __future__ import annotations

import pytest
from pass_graphs import image, labels

from llcert.ir import apply
from llcert.ops import Head, Reshape, Sigmoid, relu
from llcert.passes import notes_of, strip_head


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "ArgMax"])
def test_heads_go_with_a_note(kind: str) -> None:
    logits = apply(relu(), image(4))
    found, heads = strip_head(apply(Head(kind), logits))
    assert found is logits
    assert heads == (Head(kind),)
    assert kind in notes_of(heads)[0]


def test_behind_and_in_front_of_reshapes() -> None:
    logits = apply(Reshape((4,)), apply(relu(), image(4, 1, 1)))
    head = apply(Reshape((4, 1, 1)), apply(Head("Softmax"), logits))
    found, heads = strip_head(head)
    assert found is logits
    assert heads == (Head("Softmax"),)
    label = apply(Reshape(()), apply(Head("ArgMax"), apply(Head("Softmax"), logits)))
    found, heads = strip_head(label)
    assert found is logits
    assert [note.split()[1] for note in notes_of(heads)] == ["ArgMax", "Softmax"]


def test_sigmoid_of_several_classes_goes_and_of_one_stays() -> None:
    assert strip_head(apply(Sigmoid(), image(3)))[1] != ()
    found, heads = strip_head(apply(Sigmoid(), image(1)))
    assert labels(found) == ["Sigmoid"]
    assert heads == ()


def test_logits_are_a_line() -> None:
    found, heads = strip_head(apply(relu(), image(2, 5)))
    assert found.shape == (10,)
    assert heads == ()


def test_a_head_inside_stays() -> None:
    inside = apply(relu(), apply(Head("Softmax"), image(3)))
    assert strip_head(inside) == (inside, ())
