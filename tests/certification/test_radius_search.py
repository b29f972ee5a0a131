"""The search for radii: certified there, exact to its tolerance where the answer is known, never past an attack."""

from __future__ import annotations

import io
import json

import pytest
import torch
from proofs import points_of
from rich.console import Console

import llcert
from llcert.certification import Assurance, Certifier, Never, Semantics, Settings, Specification, Top, Verdict
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.reporting import Report
from llcert.reporting.tsv import tsv_lines
from llcert.runs.records import batch_result, sample_json


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(report)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


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
    certifier = Certifier.of(network, Settings(0.01, assurance=assurance, radius_tolerance=0.001))
    for sample, radius in zip(certifier(images, labels, torch.arange(8)).samples, exact.tolist(), strict=True):
        assert sample.radius is not None
        assert radius * 0.996 <= sample.radius <= radius * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_within_the_radius_has_another_class(seed: int) -> None:
    network = dense(seed)
    images = torch.rand(10, 3, generator=torch.Generator().manual_seed(seed))
    labels = network(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    certifier = Certifier.of(network, Settings(0.05, radius_tolerance=0.02))
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
    samples = Certifier.of(network, Settings(0.05, radius_tolerance=0.3))(
        images, network(images).argmax(1), torch.arange(10)
    ).samples
    assert all(s.radius is not None and s.radius >= 0.05 for s in samples if s.verdict is Verdict.CERTIFIED)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1e-9, float("nan")])
def test_tolerances_that_mean_nothing_are_refused(tolerance: float) -> None:
    with pytest.raises(InvalidInput, match="radius tolerance"):
        Settings(0.1, radius_tolerance=tolerance)


def constant(*, hidden: bool, image: bool = False) -> Network:
    """Logits 1.5, 1, 0.5 whatever the image is. hidden: behind values that vary. image: the last one reads it."""
    node, generator = apply(Input((4,))), torch.Generator().manual_seed(0)
    if hidden:
        node = apply(relu(), apply(Linear(torch.randn(4, 4, generator=generator)), node))
    weight = torch.zeros(3, 4)
    weight[2] = float(image)
    return Network(apply(Linear(weight, torch.tensor([1.5, 1.0, 0.5])), node))


@pytest.mark.parametrize("semantics", Semantics)
@pytest.mark.parametrize("assurance", Assurance)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_network_that_does_not_read_its_image_has_no_radius(
    hidden: bool, assurance: Assurance, semantics: Semantics
) -> None:
    images, labels = torch.rand(3, 4), torch.tensor([0, 0, 1])
    settings = Settings(0.1, assurance=assurance, semantics=semantics, radius_tolerance=0.01)
    samples = Certifier.of(constant(hidden=hidden), settings)(images, labels, torch.arange(3), self_check=True).samples
    assert [s.radius for s in samples] == [torch.inf, torch.inf, 0]
    report = llcert.certify(
        constant(hidden=hidden),
        (images, labels),
        0.1,
        radius=True,
        assurance=assurance.value,
        semantics=semantics.value,
    )
    summary = report.to_json()
    assert (summary["unbounded"], summary["radius_curve"]) == (2, [[0.0, 2 / 3]])
    json.dumps(summary, allow_nan=False)
    assert list(tsv_lines(report))[1].split("\t")[3] == "inf"
    assert "Certified at every radius: 2" in printed(report)
    line = sample_json(report.samples[0])
    assert (line["radius"], line["unbounded"]) == (None, True)
    record = {"seconds": 1.0, "stages": [], "layers": []}
    assert batch_result(record, [line]).samples[0].radius == torch.inf


def test_what_depends_on_the_image_bounds_the_radius_of_claims_that_need_it() -> None:
    network, images = constant(hidden=False, image=True), torch.full((1, 4), 0.01)

    def radius(label: int, specification: Specification) -> float | None:
        settings = Settings(0.001, radius_tolerance=0.01, specification=specification)
        (sample,) = Certifier.of(network, settings)(images, torch.tensor([label]), torch.arange(1)).samples
        return sample.radius

    assert radius(0, Top(1)) == pytest.approx((1 - 0.04) / 2, rel=0.02)
    assert radius(0, Top(2)) == torch.inf
    assert radius(1, Top(2)) == pytest.approx((0.5 - 0.04) / 2, rel=0.02)
    assert radius(0, Never(1)) == torch.inf
    assert radius(0, Never(2)) == pytest.approx((1 - 0.04) / 2, rel=0.02)


def test_a_tie_of_constants_has_no_radius() -> None:
    network = Network(apply(Linear(torch.zeros(2, 4), torch.ones(2)), apply(Input((4,)))))
    certifier = Certifier.of(network, Settings(0.1, radius_tolerance=0.01))
    (sample,) = certifier(torch.rand(1, 4), torch.tensor([0]), torch.arange(1)).samples
    assert (sample.verdict, sample.radius) == (Verdict.MISCLASSIFIED, 0)


@pytest.mark.parametrize("size", [1e-303, 1e-40, 1e-12, 1e30])
def test_radii_of_every_size(size: float) -> None:
    """Of one pixel of 0 that is weighed by 1, in float64."""
    weight, bias = (torch.tensor(v, dtype=torch.float64) for v in ([[1.0], [0.0]], [size, 0.0]))
    network = Network(apply(Linear(weight, bias), apply(Input((1,), torch.float64))))
    given = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])
    report = llcert.certify(network, given, size / 2, radius=True, semantics="real")
    (sample,) = report.samples
    assert sample.radius is not None
    assert sample.radius == pytest.approx(size, rel=0.02)
    assert sample.radius <= size
    assert "e" in printed(report)


def test_what_rounding_breaks_is_no_contradiction_of_real_numbers() -> None:
    """Logits of a million beside which float32 loses the image."""
    network = Network(apply(Linear(torch.eye(2), torch.tensor([1e6, 1e6])), apply(Input((2,)))))
    images = torch.tensor([[0.25, 0.0]])
    for assurance, semantics in ((Assurance.DETERMINISTIC, Semantics.REAL), (Assurance.ESTIMATE, Semantics.DEPLOYED)):
        settings = Settings(0.16, stages=("attack",), assurance=assurance, semantics=semantics, radius_tolerance=0.01)
        (sample,) = Certifier.of(network, settings)(images, torch.tensor([0]), torch.arange(1)).samples
        assert sample.verdict is Verdict.ATTACKED
        assert sample.radius is not None
        assert sample.radius < 0.16


@pytest.mark.parametrize("assurance", Assurance)
def test_a_weight_that_a_coarser_format_loses_is_a_path_still(assurance: Assurance) -> None:
    """In float32 the first logit is a constant, in the network's own float64 and in real numbers it is not."""
    weight, bias = torch.tensor([[1e-50], [0.0]], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    network = Network(apply(Linear(weight, bias), apply(Input((1,), torch.float64))))
    certifier = Certifier.of(network, Settings(1.0, assurance=assurance, radius_tolerance=0.01), dtype=torch.float32)
    (sample,) = certifier(torch.zeros(1, 1), torch.tensor([0]), torch.arange(1)).samples
    assert sample.radius is not None
    assert sample.radius < 1e50
