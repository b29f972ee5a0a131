"""The search for radii: certified there, exact to its tolerance where the answer is known, never past an attack."""

from __future__ import annotations

import pytest
import torch
from proofs import points_of

from llcert.certify import Assurance, Certifier, Settings, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu


def affine() -> Network:
    return Network(apply(Linear(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([0.1, 0.0])), apply(Input((2,)))))


def dense(seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    node = apply(Input((3,)))
    for before, after in ((3, 8), (8, 8)):
        node = apply(relu(), apply(Linear(torch.randn(after, before, generator=generator) / before**0.5), node))
    return Network(apply(Linear(torch.randn(3, 8, generator=generator)), node))


@pytest.mark.parametrize("assurance", Assurance)
def test_radii_of_an_affine_network_are_exact(assurance: Assurance) -> None:
    network = affine()
    images = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    labels = logits.argmax(1)
    weights = torch.tensor([2.0, 1.5]).norm()
    exact = (logits[:, 0] - logits[:, 1]).abs() / weights
    certifier = Certifier.of(network, Settings(0.01, assurance=assurance, radius=0.001))
    for sample, radius in zip(certifier(images, labels, torch.arange(8)).samples, exact.tolist(), strict=True):
        assert sample.radius is not None
        assert radius * 0.996 <= sample.radius <= radius * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_within_the_radius_has_another_class(seed: int) -> None:
    network = dense(seed)
    images = torch.rand(10, 3, generator=torch.Generator().manual_seed(seed))
    labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    certifier = Certifier.of(network, Settings(0.05, radius=0.02))
    for sample in certifier(images, labels, torch.arange(10)).samples:
        assert sample.radius is not None
        if sample.verdict is Verdict.MISCLASSIFIED:
            assert sample.radius == 0
            continue
        assert sample.radius > 0
        points = points_of(images[sample.index : sample.index + 1].double(), sample.radius, 500, seed=seed)
        assert (network(points).argmax(1) == sample.label).all()


def test_a_certified_image_has_at_least_the_radius_it_was_asked_for() -> None:
    network = dense(1)
    images = torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
    samples = Certifier.of(network, Settings(0.05, radius=0.3))(
        images, network(images).argmax(1), torch.arange(10)
    ).samples
    assert all(s.radius is not None and s.radius >= 0.05 for s in samples if s.verdict is Verdict.CERTIFIED)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1e-9, float("nan")])
def test_tolerances_that_mean_nothing_are_refused(tolerance: float) -> None:
    with pytest.raises(InvalidInput, match="tolerance of a radius"):
        Settings(0.1, radius=tolerance)
