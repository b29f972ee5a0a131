"""What may remain, and refusals by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from pass_graphs import image

from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Input, Node, Op, apply
from llcert.ops import Add, Clamp, Extreme, Head, Linear, MaxMin, relu
from llcert.passes import check_legal


def test_legal() -> None:
    check_legal(apply(Linear(torch.ones(2, 3)), apply(relu(), image(3))), "net")
    check_legal(apply(Clamp(torch.zeros(()), torch.tensor([1.0, torch.inf])), image(2)), "net")
    check_legal(apply(MaxMin(0, high=torch.tensor(torch.inf)), image(2)), "net")


class Unheard(Op):
    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        return values[0]


NAN = torch.tensor([[1.0, torch.nan, 1.0], [1.0, 1.0, 1.0]])

ILLEGAL: dict[str, tuple[Node, str]] = {
    "head": (apply(relu(), apply(Head("Softmax"), image(3), name="probabilities")), "probabilities"),
    "extreme": (apply(Extreme(True), image(3), image(3)), "2 image inputs"),
    "nan": (apply(Linear(NAN), image(3), name="dense"), "dense"),
    "infinite": (apply(Linear(torch.full((2, 3), torch.inf)), image(3), name="dense"), "infinite"),
    "threshold": (apply(Clamp(high=torch.tensor([-torch.inf, 1.0])), image(2), name="theta"), "theta"),
    "low threshold": (apply(Clamp(low=torch.tensor([torch.inf, 1.0])), image(2), name="theta"), "low"),
    "two inputs": (apply(Add(), image(3), image(3)), "2 image inputs"),
    "empty": (apply(relu(), image(0), name="nothing"), "(0,)"),
    "one logit": (apply(Linear(torch.ones(1, 3)), image(3)), "two logits"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal(name: str) -> None:
    output, named = ILLEGAL[name]
    with pytest.raises(UnsupportedModel) as caught:
        check_legal(output, "net.onnx")
    assert str(caught.value).startswith("net.onnx: ")
    assert named in str(caught.value)


@dataclass(frozen=True)
class Ramp(Activation):
    """An activation of a user: a threshold that may be anything, under a name that a Clamp has, too."""

    low: torch.Tensor

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.maximum(values[0], self.low)

    def slope(self, z: Region) -> torch.Tensor:
        return torch.ones_like(z.centre)

    def global_slope(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.ones(shape)


class Derived(Clamp):
    """Another function than the Clamp it is derived from."""

    def __call__(self, *values: torch.Tensor) -> torch.Tensor:
        return values[0].nan_to_num()


@pytest.mark.parametrize("number", [-torch.inf, torch.inf, torch.nan])
def test_an_operator_of_a_user_stays_and_its_parameters_must_be_finite(number: float) -> None:
    check_legal(apply(Ramp(torch.tensor([0.0, -3.0])), image(2), name="ramp"), "net")
    for kind in (Ramp, Derived):
        with pytest.raises(UnsupportedModel, match=r"net: .* ramp: its low holds NaN or infinite values"):
            check_legal(apply(kind(torch.tensor([0.0, number])), image(2), name="ramp"), "net")


def test_unknown_operators_and_no_input() -> None:
    x = image(3)
    with pytest.raises(UnsupportedModel, match="Unheard odd"):
        check_legal(Node(Unheard(), (x,), "odd", shape=(3,)), "net")
    with pytest.raises(UnsupportedModel, match="maximum or minimum"):
        check_legal(apply(Extreme(True), x, x), "net")
    with pytest.raises(UnsupportedModel, match="does not depend"):
        check_legal(Node(relu(), (), shape=(3,)), "net")
    check_legal(apply(relu(), apply(Input((3,)))), "net")
