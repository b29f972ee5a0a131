"""The self-check passes on sound bounds and notices rigged ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from llcert.bounds import GlobalBound
from llcert.certification import (
    Assurance,
    BatchResult,
    Certifier,
    Contradiction,
    Sample,
    SelfCheck,
    Semantics,
    Settings,
    Verdict,
)
from llcert.domain.region import Region
from llcert.errors import NumericalError
from llcert.ir import Activation, Input, Network, apply
from llcert.ops import Clamp, Leaky, Linear, MaxMin, Sigmoid, relu
from llcert.ops.movement import reshaped

INDICES = torch.arange(10)


@dataclass(frozen=True)
class Flat(Clamp):
    """A ReLU that claims to be constant where it is not."""

    low: Tensor | None = None

    def slope(self, z: Region) -> Tensor:
        return torch.zeros_like(z.centre)


@dataclass(frozen=True)
class Narrow(Clamp):
    """A ReLU whose box is too small."""

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        middle = self((lower + upper) / 2)
        return middle, middle


@dataclass(frozen=True)
class Asleep(Clamp):
    """A ReLU of which nothing is said to vary."""

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        return (torch.full_like(z.centre, -1.0),)


def _network(phi: Activation, scale: float = 1.0) -> Network:
    generator = torch.Generator().manual_seed(0)
    hidden = apply(Linear(torch.randn(8, 4, generator=generator) * scale, torch.full((8,), scale)), apply(Input((4,))))
    return Network(apply(Linear(torch.randn(3, 8, generator=generator)), apply(phi, hidden)))


def _run(network: Network, eps: float = 0.1) -> tuple[Sample, ...]:
    images = torch.rand(10, 4, generator=torch.Generator().manual_seed(1))
    certifier = Certifier.of(network, Settings(eps))
    return certifier(images, network(images).argmax(1), INDICES, self_check=True).samples


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.1, 2.0])
@pytest.mark.parametrize("phi", [relu(), Clamp(torch.zeros(()), torch.ones(())), MaxMin(0), Sigmoid()])
def test_sound_bounds_pass(phi: Activation, eps: float) -> None:
    assert len(_run(_network(phi), eps)) == 10
    assert len(_run(_network(Leaky(torch.tensor(-0.5))), eps)) == 10


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_sound_bounds_pass_at_every_scale(scale: float) -> None:
    assert len(_run(_network(relu(), scale))) == 10


@pytest.mark.parametrize("rigged", [Flat, Narrow, Asleep])
def test_rigged_bounds_are_noticed(rigged: type[Clamp]) -> None:
    with pytest.raises(NumericalError):
        _run(_network(rigged(low=torch.zeros(()))))


def cancelling(phi: Activation) -> Network:
    """Biases of a million that the second layer takes off again: float32 rounds logits of 1 by 0.1."""
    generator = torch.Generator().manual_seed(0)
    hidden = apply(Linear(torch.randn(8, 4, generator=generator), torch.full((8,), 1e6)), apply(Input((4,))))
    last = torch.randn(3, 8, generator=generator)
    return Network(apply(Linear(last, -1e6 * last.sum(1)), apply(phi, hidden)))


def large(phi: Activation) -> Network:
    """Logits of 1e5, which float32 rounds by 0.004."""
    return Network(apply(Linear(torch.eye(4) / 10, torch.tensor([2e5, 1e5, 1e5, 1e5])), apply(phi, apply(Input((4,))))))


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("make", [cancelling, large])
@pytest.mark.parametrize("semantics", list(Semantics))
def test_rounding_of_the_network_itself_is_no_violation(
    make: Callable[[Activation], Network], eps: float, semantics: Semantics
) -> None:
    images = torch.rand(10, 4, generator=torch.Generator().manual_seed(1))
    network = make(relu())
    for assurance in Assurance:
        certifier = Certifier.of(network, Settings(eps, semantics=semantics, assurance=assurance))
        labels = network(images.double()).argmax(1)
        assert len(certifier(images, labels, INDICES, self_check=True).samples) == 10


@pytest.mark.parametrize("rigged", [Flat, Narrow, Asleep])
def test_rigged_bounds_are_noticed_beneath_the_rounding(rigged: type[Clamp]) -> None:
    with pytest.raises(NumericalError):
        _run(cancelling(rigged(low=torch.zeros(()))), eps=10.0)


def _certifier(eps: float, scale: float = 1.0) -> tuple[Certifier, Tensor, Tensor]:
    network = _network(relu(), scale)
    images = torch.rand(10, 4, generator=torch.Generator().manual_seed(1))
    return Certifier.of(network, Settings(eps)), images, network(images).argmax(1)


def _checked(
    certifier: Certifier, images: Tensor, labels: Tensor, result: BatchResult, check: SelfCheck | None = None
) -> None:
    batch = certifier.batch(images, labels, INDICES)
    (check or SelfCheck())(certifier.estimator, certifier.network, batch, result, deployed=True)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_shrunken_global_bound_is_noticed(scale: float) -> None:
    certifier, images, labels = _certifier(0.1, scale)
    bound = certifier.global_bound
    small = GlobalBound(
        {t: n / 100 for t, n in bound.norms.items()},
        bound.vectors,
        {n: g / 100 for n, g in bound.lipschitz.items()},
        bound.output,
        bound.side,
    )
    result = certifier(images, labels, INDICES)
    with pytest.raises(NumericalError):
        _checked(replace(certifier, estimator=replace(certifier.estimator, global_bound=small)), images, labels, result)


def test_a_certificate_that_an_attack_breaks_is_a_contradiction() -> None:
    certifier, images, labels = _certifier(1.0)
    result = certifier(images, labels, INDICES)
    assert any(s.verdict is Verdict.ATTACKED for s in result.samples)
    lies = replace(result, samples=tuple(replace(s, verdict=Verdict.CERTIFIED) for s in result.samples))
    with pytest.raises(Contradiction):
        _checked(certifier, images, labels, lies)


def test_only_the_first_images_are_checked() -> None:
    certifier, images, labels = _certifier(0.3)
    broken = [s.verdict is Verdict.ATTACKED for s in certifier(images, labels, INDICES).samples]
    order, robust = sorted(range(10), key=broken.__getitem__), broken.count(False)
    assert 0 < robust < 10
    images, labels = images[order], labels[order]
    result = certifier(images, labels, INDICES)
    lies = replace(result, samples=tuple(replace(s, verdict=Verdict.CERTIFIED) for s in result.samples))
    with pytest.raises(Contradiction):
        _checked(certifier, images, labels, lies)
    _checked(certifier, images, labels, lies, SelfCheck(images=robust))


def test_a_point_that_float32_alone_gets_wrong_contradicts_those_who_speak_of_float32() -> None:
    """Of 1e-9, of which float32 loses all beside 1."""
    network = Network(apply(Linear(torch.eye(2), torch.tensor([1.0, 1.0])), apply(Input((2,)))))
    images, labels = torch.tensor([[1e-9, 0.0]]), torch.tensor([0])
    certifier = Certifier.of(network, Settings(0.0, semantics=Semantics.REAL))
    result = certifier(images, labels, torch.arange(1))
    lies = replace(result, samples=tuple(replace(s, verdict=Verdict.CERTIFIED) for s in result.samples))
    given = certifier.estimator, certifier.network, certifier.batch(images, labels, torch.arange(1)), lies
    SelfCheck()(*given, deployed=False)
    with pytest.raises(Contradiction):
        SelfCheck()(*given, deployed=True)


def test_values_of_one_number_an_image() -> None:
    """Without an axis of their own, behind which the rounding of entries is looked for."""
    number = apply(relu(), reshaped(apply(Linear(torch.tensor([[1.0, -0.5, 0.25]])), apply(Input((3,)))), ()))
    head = apply(Linear(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.1, 0.0])), reshaped(number, (1,)))
    network, images = Network(head), torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
    certifier = Certifier.of(network, Settings(0.01))
    samples = certifier(images, network(images).argmax(1), INDICES, self_check=True).samples
    assert any(s.verdict is Verdict.CERTIFIED for s in samples)
