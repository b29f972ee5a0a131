"""Final operators that keep the order of the classes."""

from __future__ import annotations

import pytest
from pass_graphs import image, labels
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Op, apply
from llcert.ops import Head, Reshape, Sigmoid, relu
from llcert.passes import check_legal, notes_of, strip_head


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


class Unordered(Head):
    """A head of a user, which need not keep the order of the logits."""

    def __call__(self, *values: Tensor) -> Tensor:
        return values[0].flip(-1)


class Falling(Sigmoid):
    def __call__(self, *values: Tensor) -> Tensor:
        return -values[0]


@pytest.mark.parametrize("op", [Unordered("Softmax"), Head("Sparsemax"), Falling()], ids=lambda op: type(op).__name__)
def test_what_is_not_known_to_keep_the_order_of_the_logits_stays(op: Op) -> None:
    output = apply(op, image(3), name="answer")
    assert strip_head(output) == (output, ())


@pytest.mark.parametrize("op", [Unordered("Softmax"), Head("Sparsemax")], ids=lambda op: type(op).__name__)
def test_and_a_head_that_stays_is_refused(op: Op) -> None:
    with pytest.raises(UnsupportedModel, match="answer"):
        check_legal(apply(op, image(3), name="answer"), "net")


def test_a_head_inside_stays() -> None:
    inside = apply(relu(), apply(Head("Softmax"), image(3)))
    assert strip_head(inside) == (inside, ())
