"""Claims that are restricted to a range of pixels: weaker, true, and refused where the data leave the range."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from proofs import prover_of
from torch import Tensor

import llcert
from llcert.certification import Assurance, Certifier, Semantics, Settings, Verdict
from llcert.certification.proof.hint import ProofHint
from llcert.domain.pixel_range import UNIT, PixelRange
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
from llcert.reporting import Report


def corner(pixels: int = 4) -> Network:
    """Of two classes, the first while pixels together stay above -0.05: always, in [0, 1]."""
    weight = torch.cat((torch.ones(1, pixels), torch.zeros(1, pixels)))
    return Network(apply(Linear(weight, torch.tensor([0.05, 0.0])), apply(Input((pixels,)))))


def asked(images: Tensor, eps: float, **question: object) -> Report:
    given = images, torch.zeros(len(images), dtype=torch.int64)
    return llcert.certify(corner(), given, eps, **question)  # type: ignore[arg-type]


@pytest.mark.parametrize("assurance", list(Assurance))
@pytest.mark.parametrize(
    "stages", [["local"], ["crown-ball"], ["global", "local", "attack", "crown-ball", "crown-ball-intermediate"]]
)
def test_only_points_in_the_range_count(stages: list[str], assurance: Assurance) -> None:
    images = torch.zeros(3, 4)
    how = {"stages": stages, "assurance": assurance.value}
    assert asked(images, 1.0, **how).count(Verdict.CERTIFIED) == 0
    assert asked(images, 1.0, **how, clip_input=True).count(Verdict.CERTIFIED) == 3
    assert asked(images, 1.0, **how, clip_input=True, pixel_range="-1,1").count(Verdict.CERTIFIED) == 0
    assert asked(images, 1.0, **how, clip_input=True, pixel_range=(-0.001, 1)).count(Verdict.CERTIFIED) == 3
    assert asked(images, 1.0, **how, pixel_range=(-0.001, 1)).count(Verdict.CERTIFIED) == 0


def test_images_outside_the_range_are_refused_in_one_line() -> None:
    images = torch.zeros(3, 4)
    images[1, 2] = 1.5
    with pytest.raises(
        InvalidInput, match=r"^--clip-input: pixels of images run from 0 to 1.5, outside \[0, 1\]; give"
    ):
        asked(images, 0.1, clip_input=True)
    assert asked(images, 0.1, clip_input=True, samples="1").samples
    assert asked(images, 0.1, clip_input=True, pixel_range="0,1.5").samples
    assert asked(images, 0.1).warnings
    assert not asked(images, 0.1, pixel_range="0,2").warnings
    certifier = Certifier.of(corner(), Settings(0.1, clip_input=True))
    with pytest.raises(InvalidInput, match="image 8 leaves the pixel range"):
        certifier(images, torch.zeros(3, dtype=torch.int64), torch.tensor([7, 8, 9]))
    images[1, 2] = torch.nan
    with pytest.raises(InvalidInput, match="image 8 leaves the pixel range"):
        certifier(images, torch.zeros(3, dtype=torch.int64), torch.tensor([7, 8, 9]))


@pytest.mark.parametrize(
    "text", ["", "0", "0,1,2", "1,0", "0,0", "nan,1", "-inf,1", "0;1", "a,b", "1/0,2", "0,1e999", "+1,2"]
)
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^range .*: give the lowest and the highest value of a pixel"):
        asked(torch.zeros(1, 4), 0.1, pixel_range=text)


def test_ranges_are_rounded_outwards() -> None:
    for low, high in (("0.1", "0.7"), ("-0.7", "-0.1"), ("1/3", "2/3"), ("0", "1"), ("1e-30", "1e30")):
        found = PixelRange.of(low, high)
        assert Fraction(found.low) <= Fraction(low)
        assert Fraction(high) <= Fraction(found.high)
        assert Fraction(low) - Fraction(found.low) <= abs(Fraction(low)) / 2**52
        assert Fraction(found.high) - Fraction(high) <= abs(Fraction(high)) / 2**52
    assert PixelRange.of("0", "1") == UNIT
    single = torch.tensor([[0.7]])  # more than 0.7
    assert PixelRange.of("0", "0.7").holds(single).tolist() == [float(single) <= 0.7]


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.parametrize("seed", range(6))
def test_proved_margins_hold_at_every_point_of_the_range(seed: int, semantics: Semantics) -> None:
    """Against a fine grid of what a disc and a square have in common, and tight for one linear map."""
    generator = torch.Generator().manual_seed(seed)
    hidden = apply(relu(), apply(Linear(torch.randn(6, 2, generator=generator)), apply(Input((2,)))))
    network = Network(apply(Linear(torch.randn(3, 6, generator=generator)), hidden))
    image, eps, within = torch.rand(1, 2, generator=generator) * 0.2, 0.4, PixelRange.of("0", "0.45")
    label = network(image).argmax(1)
    settings = Settings(eps, clip_input=True, pixel_range=within, semantics=semantics)
    prover = prover_of(network, settings)
    margins = prover(image, label, ProofHint(local=True, backward=True), eps)
    whole = prover_of(network, Settings(eps, semantics=semantics))
    assert bool((margins >= whole(image, label, ProofHint(local=True, backward=True), eps) - 1e-9).all())
    steps = torch.linspace(0, 0.45, 400, dtype=torch.float64)
    points = torch.cartesian_prod(steps, steps)
    points = points[torch.linalg.vector_norm(points - image.double(), dim=1) <= eps]
    for at in (points, points.float()) if semantics is Semantics.DEPLOYED else (points,):
        logits = network(at)
        least = (logits[:, label] - logits).amin(0)
        assert bool((margins[0] <= least + torch.where(torch.arange(3) == label, torch.inf, 0)).all())


def test_a_linear_map_is_bounded_tightly() -> None:
    """The least value of x + y over the square alone, where the disc holds all of it."""
    settings = Settings(3.0, clip_input=True, semantics=Semantics.REAL)
    prover = prover_of(corner(2), settings)
    margin = prover(torch.tensor([[0.5, 0.25]]), torch.tensor([0]), ProofHint(local=True), 3.0)[0, 1]
    assert float(margin) == pytest.approx(0.05, abs=1e-6)
    assert float(margin) <= float(torch.tensor(0.05))


def test_the_radius_counts_points_in_the_range_alone() -> None:
    images = torch.zeros(1, 4)
    (plain,), (clipped,) = (asked(images, 0.01, radius=True, clip_input=clip).samples for clip in (False, True))
    assert plain.radius is not None
    assert clipped.radius is not None
    assert plain.radius == pytest.approx(0.025, rel=0.02)
    assert clipped.radius > 1


def test_reports_say_what_is_claimed() -> None:
    plain, clipped = (asked(torch.zeros(2, 4), 0.1, clip_input=clip) for clip in (False, True))
    other = asked(torch.zeros(2, 4), 0.1, clip_input=True, pixel_range="-1/2,1", top=1)
    assert plain.to_json()["claim"] == {"top": 1}
    assert clipped.to_json()["claim"] == {"top": 1, "within": ["0", "1"]}
    assert other.to_json()["claim"] == {"top": 1, "within": ["-1/2", "1"]}
    assert plain.to_json()["claim_words"] == "the label stays first"
    assert other.to_json()["claim_words"] == "the label stays first, as long as all pixels stay in [-1/2, 1]"
    assert [s.within for s in (*plain.samples, *other.samples)] == [None, None, (-0.5, 1.0), (-0.5, 1.0)]
