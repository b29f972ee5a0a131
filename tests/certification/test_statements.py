"""A proof believes what an operator's author states; what is not stated is refused by name, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from proofs import proved
from torch import Tensor

import llcert
from llcert.domain.region import Region
from llcert.errors import UnsupportedModel
from llcert.ir import Activation, Input, Join, LinearOp, Network, Op, Shape, apply
from llcert.ops import Linear


class Saturation(Activation):
    """`1 - exp(-max(z, 0))`, which loses all digits of small results."""

    def __call__(self, *values: Tensor) -> Tensor:
        return 1 - torch.exp(-values[0].clamp(min=0))

    def slope(self, z: Region) -> Tensor:
        return torch.exp(-z.lower.clamp(min=0))

    def global_slope(self, shape: Shape) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class Silent(Saturation):
    """An activation without statements."""


@dataclass(frozen=True)
class Stated(Saturation):
    """The same, with those that are right."""

    increasing = True
    roundings = 4
    relative = False
    slope_roundings = 4


@dataclass(frozen=True)
class Doubled(LinearOp):
    """`2 x` by an author who says nothing of it."""

    def linear(self, x: Tensor) -> Tensor:
        return 2 * x

    def transformed(self, entrywise: object) -> LinearOp:
        return self


@dataclass(frozen=True)
class Both(Join):
    """A sum whose author says nothing of it."""

    def __call__(self, *values: Tensor) -> Tensor:
        return values[0] + values[1]

    def adjoints(self, y: Tensor, shapes: object) -> tuple[Tensor, ...]:
        return y, y


def network(op: Op, scale: float = 1.0) -> Network:
    """A number through an operator, against zero."""
    hidden = apply(Linear(torch.ones(1, 1)), apply(Input((1,))))
    hidden = apply(op, *(hidden,) * (2 if isinstance(op, Join) else 1), name="squash")
    return Network(apply(Linear(torch.tensor([[-scale], [0.0]]), torch.tensor([1.0, 0.0])), hidden))


def certified(net: Network, image: Tensor, eps: float, **options: object) -> bool:
    labels = net(image).argmax(1)
    stages = ["global", "local", "crown-ball"]
    report = llcert.certify(net, (image, labels), eps=eps, stages=stages, self_check=False, **options)  # type: ignore[arg-type]
    return report.samples[0].verdict.value == "certified"


@pytest.mark.parametrize("assurance", ["deterministic", "probabilistic"])
@pytest.mark.parametrize("op", [Silent(), Doubled(), Both()])
def test_no_statement_no_proof(op: Op, assurance: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{op.label} squash: nothing can be proved of an operator .*roundings"):
        certified(network(op), torch.tensor([[0.1]]), 0.01, assurance=assurance)


@pytest.mark.parametrize("missing", ["increasing or box", "roundings", "relative", "slope_roundings"])
def test_every_statement_that_is_missing_is_named(missing: str) -> None:
    unstated = {name: getattr(Activation, name) for name in missing.split(" or ")[:1]}
    op = type("Nearly", (Stated,), unstated)()
    with pytest.raises(UnsupportedModel, match=f"Nearly squash: .* does not state {missing} \\("):
        certified(network(op), torch.tensor([[0.1]]), 0.01)


def test_an_estimate_asks_for_no_statement() -> None:
    assert certified(network(Silent()), torch.tensor([[0.1]]), 0.01, assurance="estimate")
    assert not certified(network(Silent(), 10.0), torch.tensor([[0.1]]), 0.01, assurance="estimate")


def test_what_is_stated_is_believed_and_paid_for() -> None:
    """At 9.8e-7 a unit of the last place of 1 is 6 % of the result: in float32 another class comes first nearby."""
    net, image = network(Stated(), 1e6), torch.tensor([[9.8e-7]])
    assert certified(net, image, 1.2e-8, semantics="real")
    assert not certified(net, image, 1.2e-8)
    assert certified(network(Stated()), torch.tensor([[0.1]]), 0.01)


@dataclass(frozen=True)
class Flat(Stated):
    """Constant below 1/10, where an evaluation in floating point is not."""

    def __call__(self, *values: Tensor) -> Tensor:
        small = 0.1 * torch.exp(values[0] - values[0].floor()) / torch.exp(values[0] - values[0].floor())
        return torch.where(values[0] < 0.1, small, values[0])

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        return (z.upper - 0.1,)

    def slope(self, z: Region) -> Tensor:
        return self.varying(z).to(z.centre.dtype)


@torch.no_grad()
def test_a_constant_that_is_not_computed_exactly_varies() -> None:
    net, image = network(Flat()), torch.tensor([[-0.5]])
    program, trace = proved(net, image, 0.1)
    block = next(b for b in program.blocks if b.activation is not None)
    assert bool(trace.post_activation[block.node].varying.all())
    points = torch.linspace(-0.6, -0.4, 1001)[:, None]
    for values in (Flat()(points).double(), Flat()(points.double())):
        region = trace.post_activation[block.node].region
        assert bool(((values >= region.lower) & (values <= region.upper)).all())
        assert bool(((values - region.centre).abs() <= region.radius).all())
