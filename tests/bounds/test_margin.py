"""Worst margins: the largest increase against brute force, and the order of the three bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llcert.bounds import LastLayer, MaskedRegion, gloro_margins, lmt_margins, worst_margins
from llcert.bounds.margin import largest_increase
from llcert.domain.pixel_range import UNIT
from llcert.domain.region import Region, ball
from llcert.ir import Input, Network, apply
from llcert.ops import Add, Linear, Tanh, relu
from llcert.program import lower

SIZE = 6


def _hidden(
    centre: Tensor, down: Tensor, up: Tensor, radius: Tensor | float, varying: Tensor | None = None
) -> MaskedRegion:
    region = Region(centre, centre - down, centre + up, torch.as_tensor(radius, dtype=centre.dtype).reshape(-1))
    return MaskedRegion(region, torch.ones_like(centre, dtype=torch.bool) if varying is None else varying)


def _draw(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """A direction, the two sides of a box, and a radius somewhere between inside and around it."""
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    down, up = torch.rand(2, 1, SIZE, generator=generator, dtype=torch.float64)
    degenerate = torch.rand(3, SIZE, generator=generator) < 0.2
    down, up = torch.where(degenerate[0], 0.0, down), torch.where(degenerate[1], 0.0, up)
    radius = float(torch.rand((), generator=generator, dtype=torch.float64)) * 1.5
    return torch.where(degenerate[2], 0.0, d), down, up, radius


def _oracle(d: Tensor, down: Tensor, up: Tensor, radius: float) -> float:
    """`max d . delta`: the best of many feasible points, most of them clamped rays, bisected to the sphere."""
    rays = torch.cat([d[None] * torch.logspace(-4, 4, 400, dtype=torch.float64)[:, None], _corners(down, up)])
    points = torch.maximum(torch.minimum(rays, up), -down)
    low, high = torch.zeros(()), torch.tensor(1e6, dtype=torch.float64)
    for _ in range(100):  # the optimum is clamp(s d) for the largest s that stays in the ball
        middle = (low + high) / 2
        inside = torch.linalg.vector_norm(torch.maximum(torch.minimum(middle * d, up), -down)) <= radius
        low, high = (middle, high) if inside else (low, middle)
    points = torch.cat([points, torch.maximum(torch.minimum(low * d, up), -down)])
    feasible = points[torch.linalg.vector_norm(points, dim=1) <= radius * (1 + 1e-12)]
    return max(0.0, float((feasible @ d).max())) if len(feasible) else 0.0


def _corners(down: Tensor, up: Tensor) -> Tensor:
    choices = torch.cartesian_prod(*(torch.tensor([0, 1]),) * SIZE)
    return torch.where(choices == 1, up, -down)


@given(seed=st.integers(0, 100_000))
@settings(max_examples=150, deadline=None)
def test_largest_increase_is_the_maximum(seed: int) -> None:
    d, down, up, radius = _draw(seed)
    found = float(largest_increase(d[None, None], _hidden(torch.zeros(1, SIZE, dtype=torch.float64), down, up, radius)))
    truth = _oracle(d, down, up, radius)
    assert found >= truth - 1e-9 * (1 + truth)
    assert found <= truth + 1e-4 * (1 + truth)


@pytest.mark.parametrize("seed", range(5))
def test_a_corner_exactly_at_the_radius(seed: int) -> None:
    d, down, up, _ = _draw(seed)
    corner = torch.where(d >= 0, up, -down)
    radius = float(torch.linalg.vector_norm(corner))
    found = largest_increase(d[None, None], _hidden(torch.zeros(1, SIZE, dtype=torch.float64), down, up, radius))
    assert float(found) == pytest.approx(float((corner * d).sum()), abs=1e-12)


def test_degenerate_regions() -> None:
    one, none = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    d = torch.tensor([[[1.0, -2.0, 2.0]]], dtype=torch.float64)
    assert largest_increase(d, _hidden(none, one, one, 0.0)) == 0
    assert largest_increase(d, _hidden(none, none, none, 1.0)) == 0
    assert largest_increase(0 * d, _hidden(none, one, one, 1.0)) == 0
    assert largest_increase(d, _hidden(none, one, one, torch.inf)) == 5
    assert largest_increase(d, _hidden(none, one, one, 1.0, torch.tensor([[True, False, False]]))) == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e15])
def test_scales_do_not_vanish_in_float32(scale: float) -> None:
    one, none = torch.ones(1, 4), torch.zeros(1, 4)
    d = torch.ones(1, 1, 4)
    assert largest_increase(d * scale, _hidden(none, one, one, 1.0)) >= 2 * scale * (1 - 1e-6)
    assert largest_increase(d, _hidden(none, one * scale, one * scale, 1.5 * scale)) >= 3 * scale * (1 - 1e-6)


@pytest.mark.parametrize("where", ["direction", "box", "radius", "centre"])
def test_nan_is_never_a_margin(where: str) -> None:
    one, none = torch.ones(1, 2), torch.zeros(1, 2)
    poison = torch.tensor([[torch.nan, 1.0]])
    d = poison[None] if where == "direction" else one[None]
    known = _hidden(
        poison if where == "centre" else none,
        poison if where == "box" else one,
        one,
        torch.nan if where == "radius" else 1.0,
    )
    assert not bool((1e9 - largest_increase(d, known) > 0).any())


def test_images_and_directions_do_not_mix() -> None:
    drawn = [_draw(seed) for seed in range(6)]
    d = torch.stack([x[0] for x in drawn])
    centre = torch.zeros(6, SIZE, dtype=torch.float64)
    down, up = torch.cat([x[1] for x in drawn]), torch.cat([x[2] for x in drawn])
    radius = torch.tensor([x[3] for x in drawn], dtype=torch.float64)
    together = largest_increase(d.expand(6, 6, SIZE), _hidden(centre, down, up, radius))
    for i in range(6):
        for j in range(6):
            alone = largest_increase(d[None, j : j + 1], _hidden(centre[:1], down[i : i + 1], up[i : i + 1], radius[i]))
            assert float(alone) == pytest.approx(float(together[i, j]), rel=1e-5, abs=1e-12)


def _last(seed: int) -> tuple[LastLayer, dict, Tensor, Tensor]:
    """The last layer of a network of one linear map, hidden regions, logits and labels of 5 images."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, SIZE, generator=generator, dtype=torch.float64)
    program = lower(Network(apply(Linear(weight), apply(Input((SIZE,))))), dtype=torch.float64)
    images = torch.rand(5, SIZE, generator=generator, dtype=torch.float64)
    region = ball(images, 0.4, within=UNIT).box_to_ball()
    varying = torch.rand(5, SIZE, generator=generator) < 0.8
    labels = torch.randint(4, (5,), generator=generator)
    return LastLayer.of(program), {program.input: MaskedRegion(region, varying)}, program.logits(images), labels


@pytest.mark.parametrize("seed", range(10))
def test_box_and_ball_is_best_then_gloro_then_lmt(seed: int) -> None:
    last, hidden, logits, labels = _last(seed)
    (term,) = last.rows
    lipschitz = torch.linalg.matrix_norm(last.rows[term], 2)
    worst, gloro = worst_margins(logits, labels, last, hidden), gloro_margins(logits, labels, last, hidden)
    lmt = lmt_margins(logits, labels, lipschitz * hidden[term.source].region.radius)
    assert (worst >= gloro - 1e-12).all()
    assert (gloro >= lmt - 1e-12).all()
    own = torch.nn.functional.one_hot(labels, 4).bool()
    for margins in (worst, gloro, lmt):
        assert margins[own].isposinf().all()
        assert margins[~own].isfinite().all()


def test_no_room_is_the_clean_margin() -> None:
    last, hidden, logits, labels = _last(0)
    (source,) = hidden
    still = {source: MaskedRegion(ball(hidden[source].region.centre, 0.0), hidden[source].varying)}
    clean = logits.gather(1, labels[:, None]) - logits
    other = ~torch.nn.functional.one_hot(labels, 4).bool()
    for margins in (worst_margins(logits, labels, last, still), gloro_margins(logits, labels, last, still)):
        assert torch.equal(margins[other], clean[other])


def test_rows_are_read_off_the_program() -> None:
    image = apply(Input((3,)))
    weights = [torch.randn(2, n, generator=torch.Generator().manual_seed(n)) for n in (3, 4)]
    hidden = apply(relu(), apply(Linear(torch.ones(4, 3)), image))
    output = apply(Add(), apply(Linear(weights[0]), image), apply(Linear(weights[1]), hidden))
    program = lower(Network(output))
    rows = {t.source: r for t, r in LastLayer.of(program).rows.items()}
    assert torch.allclose(rows[program.input], weights[0])
    assert torch.allclose(rows[program.blocks[0].node], weights[1])
    ends = lower(Network(apply(Tanh(), output)))
    ((term, unit),) = LastLayer.of(ends).rows.items()
    assert term.source is ends.output
    assert torch.equal(unit, torch.eye(2))
