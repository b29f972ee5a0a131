"""Relaxations of activations against dense sampling of their zones, for any slopes and multipliers, silly ones too."""

from __future__ import annotations

import itertools

import pytest
import torch
from drawing import number, numbers
from seeds import sizes
from torch import Tensor

from llcert.domain.region import Region
from llcert.domain.relaxation import Piecewise, Relaxation, Zone
from llcert.ir import Activation, Shape
from llcert.numerics.rounding import DOUBLE
from llcert.numerics.tensors import length
from llcert.ops import Clamp, Leaky, MaxMin, Sigmoid, relu

BATCH, ROWS, POINTS = 3, 4, 400
INFINITE = torch.tensor(torch.inf, dtype=torch.float64)


CLAMPS = {
    f"clamp {low} {high}": (Clamp(low, high), (4,))
    for low, high in itertools.product(
        (None, number(0.0), number(-0.5), numbers(-1.0, 0.0, 0.6, -torch.inf)),
        (None, number(0.4), number(-0.7), numbers(0.3, 1.0, -0.2, torch.inf)),
    )
}
ACTIVATIONS: dict[str, tuple[Activation, Shape]] = {
    "relu": (relu(), (4,)),
    "leaky": (Leaky(number(0.1)), (4,)),
    "leaky zero": (Leaky(number(0.0)), (4,)),
    "leaky one": (Leaky(number(1.0)), (4,)),
    "absolute": (Leaky(number(-1.0)), (4,)),
    "leaky steep": (Leaky(number(3.0)), (4,)),
    "leaky steep down": (Leaky(number(-2.5)), (4,)),
    "leaky each": (Leaky(numbers(0.0, -1.0, 2.0, 0.3)), (4,)),
    "maxmin": (MaxMin(0), (4,)),
    "maxmin neighbours": (MaxMin(0, True), (4,)),
    "maxmin inner axis": (MaxMin(1, True), (2, 2)),
    "maxmin clipped": (MaxMin(0, False, number(0.5), number(-0.5)), (4,)),
    "maxmin clipped neighbours": (MaxMin(0, True, numbers(0.5, 0.0), numbers(-0.1, 0.0)), (4,)),
    "maxmin clipped above": (MaxMin(0, False, numbers(0.2, torch.inf)), (4,)),
    "maxmin clipped below": (MaxMin(0, True, None, number(0.1)), (4,)),
    "maxmin thresholds crossing": (MaxMin(0, False, number(-0.5), number(0.5)), (4,)),
    **CLAMPS,
}


class Draw:
    """Seeded zones, points of them, rows, slopes and multipliers."""

    def __init__(self, phi: Activation, shape: Shape, seed: int) -> None:
        self.phi, self.shape, self.seed = phi, shape, seed
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def zone(self) -> Zone:
        """A box around a centre, some of its edges and centres exactly where the function bends, and an ellipsoid."""
        size = (BATCH, *self.shape)
        bends = torch.cat([t.flatten() for t in self.phi.tensors().values()] + [torch.zeros(1, dtype=torch.float64)])
        bends = bends[bends.isfinite()]
        centre = self.at_bends(self.normal(*size) * 0.7, bends, 0.2)
        width = [0.0, 0.1, 1.0, 4.0][self.seed % 4]
        lower, upper = centre - width * self.uniform(*size), centre + width * self.uniform(*size)
        lower = torch.minimum(self.at_bends(lower, bends, 0.2 * (width > 0)), centre)
        upper = torch.maximum(self.at_bends(upper, bends, 0.2 * (width > 0)), centre)
        return Zone(centre, lower, upper, self.weights(Region(centre, lower, upper, INFINITE)), self.radius(width))

    def at_bends(self, x: Tensor, bends: Tensor, share: float) -> Tensor:
        picks = bends[torch.randint(len(bends), x.shape, generator=self.generator)]
        return torch.where(self.uniform(*x.shape) < share, picks, x)

    def weights(self, z: Region) -> Tensor:
        """Nothing, everything, 0/1, anything, masks and secants."""
        size = tuple(z.centre.shape)
        kinds = (
            torch.zeros(size, dtype=torch.float64),
            torch.ones(size, dtype=torch.float64),
            (self.uniform(*size) < 0.5).double(),
            self.uniform(*size) * 2,
            self.phi.slope(z).double(),
            self.phi.secant(z).double(),
        )
        return kinds[self.seed // 4 % len(kinds)]

    def radius(self, width: float) -> Tensor:
        radius = self.uniform(BATCH) * (width + 0.1)
        radius[0] = torch.inf if self.seed % 3 == 0 else 0.0 if self.seed % 3 == 1 else radius[0]
        return radius

    def points(self, zone: Zone) -> Tensor:
        """Points of box and ellipsoid, `[points, batch, *shape]`: inside, at corners, on the ellipsoid."""
        share = self.uniform(POINTS, *zone.centre.shape)
        share[::2] = share[::2].round()
        moved = zone.lower + share * (zone.upper - zone.lower) - zone.centre
        size = length((zone.weights * moved).flatten(0, 1)).reshape(POINTS, -1)
        shrink = torch.where(size > zone.radius, zone.radius / size, 1.0)
        shrink[1::3] *= self.uniform(*shrink[1::3].shape)
        moved = moved * shrink.reshape(POINTS, BATCH, *[1] * len(self.shape))
        return torch.minimum(torch.maximum(zone.centre + moved, zone.lower), zone.upper)

    def choice(self, step: Relaxation, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and multipliers of every kind, rows by row."""
        slopes = step.slopes(rows)
        kind = self.uniform(*slopes.shape)
        slopes = torch.where(kind < 0.2, self.normal(*slopes.shape) * 5, torch.where(kind < 0.3, 0.0, slopes))
        lam, _ = step.multipliers(rows, slopes)
        kind = self.uniform(*lam.shape)
        return slopes, torch.where(kind < 0.3, 0.0, torch.where(kind < 0.6, self.uniform(*lam.shape) * 10, lam))


def carried(phi: Activation, zone: Zone, rows: Tensor, draw: Draw, *, paid: bool = False) -> tuple[Tensor, Tensor]:
    """Rows before the activation and the constant that comes with them."""
    constant = torch.zeros(rows.shape[:2], dtype=torch.float64)
    for step in reversed(phi.relaxations(zone) or ()):
        inner, passing = step.enter(rows)
        slopes, lam = draw.choice(step, inner)
        constant = constant + step.constant(inner, slopes, lam, DOUBLE if paid else None)
        rows = step.leave(slopes * inner, passing)
    return rows, constant


def product(rows: Tensor, values: Tensor) -> Tensor:
    """`[points, batch, rows]` of rows `[batch, rows, *shape]` and values `[points, batch, *shape]`."""
    return torch.einsum("brn,pbn->pbr", rows.flatten(2), values.flatten(2))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("zones", sizes(12, 36))
def test_no_point_of_the_zone_lies_below_the_bound(name: str, paid: bool, zones: int) -> None:
    phi, shape = ACTIVATIONS[name]
    for seed in range(zones):
        draw = Draw(phi, shape, seed)
        zone = draw.zone()
        points, rows = draw.points(zone), draw.normal(BATCH, ROWS, *shape)
        before, constant = carried(phi, zone, rows, draw, paid=paid)
        values = phi(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        found, bound = product(rows, values), product(before, points) + constant
        known = constant > -torch.inf
        assert not bool(constant.isnan().any()), seed
        assert bool((found >= bound - 1e-12 * (1 + product(before.abs(), points.abs())))[:, known].all()), (name, seed)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if not n.startswith("maxmin")])
def test_without_a_multiplier_the_bound_is_the_least_value_on_the_box(name: str) -> None:
    """Entry by entry on a fine grid that holds the ends and the bends: tight, not only sound."""
    phi, shape = ACTIVATIONS[name]
    for seed in range(12):
        draw = Draw(phi, shape, seed)
        zone = draw.zone()
        (step,) = phi.relaxations(zone) or ()
        rows, slopes = draw.normal(BATCH, ROWS, *shape), draw.normal(BATCH, ROWS, *shape)
        found = step.constant(rows, slopes, torch.zeros(BATCH, ROWS, dtype=torch.float64))
        ends = torch.stack([e[:, 0] for e in step.ends])
        steps = torch.linspace(0, 1, 200, dtype=torch.float64).reshape(-1, *[1] * zone.centre.ndim)
        grid = torch.cat([ends, zone.lower + steps * (zone.upper - zone.lower)])
        values = phi(grid.flatten(0, 1)).unflatten(0, grid.shape[:2])
        least = (rows * values[:, :, None] - slopes * rows * grid[:, :, None]).amin(0).flatten(2).sum(-1)
        torch.testing.assert_close(found, least, atol=1e-9, rtol=1e-9)


def test_with_a_multiplier_the_bound_is_the_least_value_on_the_box_too() -> None:
    for seed in range(24):
        draw = Draw(Leaky(number(-0.6)), (3,), seed)
        zone = draw.zone()
        zone = Zone(zone.centre, zone.lower, zone.upper, zone.weights, draw.uniform(BATCH))
        (step,) = draw.phi.relaxations(zone) or ()
        rows, slopes, lam = draw.normal(BATCH, 1, 3), draw.normal(BATCH, 1, 3), draw.uniform(BATCH, 1) * 3
        found = step.constant(rows, slopes, lam)[:, 0]
        share = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None, None]
        grid = torch.cat([step.ends[1][:, 0][None], zone.lower + share * (zone.upper - zone.lower)])
        curve = lam[:, 0, None] / 2 * (zone.weights * (grid - zone.centre)).square()
        a = rows[:, 0]
        least = (a * draw.phi(grid.flatten(0, 1)).unflatten(0, grid.shape[:2]) - slopes[:, 0] * a * grid + curve).amin(
            0
        )
        expected = least.sum(1) - lam[:, 0] * zone.radius.square() / 2
        assert bool((found <= expected + 1e-9).all())
        assert bool((found >= expected - 1e-4).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_multiplier_that_is_chosen_never_does_worse_than_none(name: str) -> None:
    phi, shape = ACTIVATIONS[name]
    for seed in range(12):
        draw = Draw(phi, shape, seed)
        rows = draw.normal(BATCH, ROWS, *shape)
        for step in reversed(phi.relaxations(draw.zone()) or ()):
            inner, passing = step.enter(rows)
            slopes = step.slopes(inner)
            lam, _ = step.multipliers(inner, slopes)
            assert bool((lam >= 0).all())
            better, worse = (step.constant(inner, slopes, x) for x in (lam, torch.zeros_like(lam)))
            assert bool((better >= worse - 1e-12).all())
            rows = step.leave(slopes * inner, passing)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_paid_for_rounding_is_little(name: str) -> None:
    phi, shape = ACTIVATIONS[name]
    draw = Draw(phi, shape, 2)
    zone, rows = draw.zone(), draw.normal(BATCH, ROWS, *shape)
    free = carried(phi, zone, rows, Draw(phi, shape, 5))[1]
    paid = carried(phi, zone, rows, Draw(phi, shape, 5), paid=True)[1]
    known = free.isfinite()
    assert bool((paid < free)[known].all())
    assert bool((paid >= free - 1e-9)[known].all())


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e-30, 1e30, 1e150])
def test_bounds_hold_at_every_scale(scale: float) -> None:
    """The square of a radius of 1e-200 is zero; what it takes off is not."""
    one = Draw(relu(), (4,), 6)
    zone, rows = one.zone(), one.normal(BATCH, ROWS, 4)
    zone = Zone(zone.centre, zone.lower, zone.upper, torch.ones_like(zone.weights), one.uniform(BATCH) + 0.1)
    small = Zone(*(t * scale for t in (zone.centre, zone.lower, zone.upper)), zone.weights, zone.radius * scale)
    (step,), (plain,) = (relu().relaxations(z) or () for z in (small, zone))
    slopes = plain.slopes(rows)
    lam, _ = plain.multipliers(rows, slopes)
    assert bool((lam > 0).any())
    expected = plain.constant(rows, slopes, lam)
    torch.testing.assert_close(step.constant(rows, slopes, lam / scale) / scale, expected)
    assert bool((step.constant(rows, slopes, lam / scale, DOUBLE) / scale <= expected + 1e-15).all())


def test_nothing_known_bounds_nothing() -> None:
    zero, one = torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    nan = zero * torch.nan
    rows, lam = one[:, None], torch.ones(1, 1, dtype=torch.float64)
    for zone in (
        Zone(zero, nan, one, one, lam[0]),
        Zone(zero, -one, nan, one, lam[0]),
        Zone(nan, -one, one, one, lam[0]),
        Zone(zero, -one, one, one, lam[0] * torch.nan),
        Zone(zero, -one, one, nan, lam[0]),
        Zone(zero, -one, one, one, lam[0] * torch.inf),
    ):
        (step,) = relu().relaxations(zone) or ()
        assert not bool((step.constant(rows, rows / 2, lam) > -torch.inf).any())
        assert not bool((step.constant(rows, rows / 2, lam, DOUBLE) > -torch.inf).any())
    (step,) = relu().relaxations(Zone(zero, -one, one, one, lam[0])) or ()
    assert bool(step.constant(rows, rows / 2, lam * torch.nan).isnan().all())


def test_settled_entries_pass_with_their_own_slope_at_no_cost() -> None:
    centre = numbers(2.0, -2.0, 5.0)[None]
    phi = Clamp(number(0.0), number(4.0))
    zone = Zone(centre, centre - 0.5, centre + 0.5, torch.zeros_like(centre), INFINITE[None])
    (step,) = phi.relaxations(zone) or ()
    rows = numbers(1.0, -3.0, 2.0)[None, None]
    slopes = step.slopes(rows)
    assert slopes.flatten().tolist() == [1.0, 0.0, 0.0]
    assert float(step.constant(rows, slopes, torch.zeros(1, 1, dtype=torch.float64))) == 2.0 * 4.0


def test_tightest_slopes_of_a_relu_are_those_of_crown() -> None:
    lower, upper = numbers(-1.0, -3.0)[None], numbers(2.0, 1.0)[None]
    zone = Zone((lower + upper) / 2, lower, upper, torch.zeros_like(lower), INFINITE[None])
    (step,) = relu().relaxations(zone) or ()
    below, above = (s.flatten().tolist() for s in step.tightest)
    assert below == [1.0, 0.0]
    assert above == pytest.approx([2 / 3, 1 / 4])


def test_a_masked_half_of_a_pair_leaves_the_ball_nothing_to_say() -> None:
    """`||w (z - c)|| <= r` says nothing of an entry of weight zero: the bound may not use r for it."""
    centre = torch.zeros(1, 2, dtype=torch.float64)
    zone = Zone(centre, centre - 5, centre + 5, numbers(1.0, 0.0)[None], numbers(0.1))
    (step,) = MaxMin(0).relaxations(zone) or ()
    assert bool((step.zone.weights == 0).all())


def test_smooth_functions_have_no_relaxation() -> None:
    zero = torch.zeros(1, 2, dtype=torch.float64)
    assert Sigmoid().relaxations(Zone(zero, zero - 1, zero + 1, zero, INFINITE[None])) is None


def test_a_piecewise_function_meets_its_own_description() -> None:
    """Between the knots the function has the slopes it says, whatever the order of the bounds."""
    z = torch.linspace(-3, 3, 1201, dtype=torch.float64)[:, None].expand(-1, 4)
    for name, (phi, _) in ACTIVATIONS.items():
        if name.startswith("maxmin"):
            continue
        (step,) = phi.relaxations(Zone(z, z, z, z * 0, INFINITE.expand(len(z)))) or ()
        _meets(step.phi, z)


def _meets(phi: Piecewise, z: Tensor) -> None:
    knots = (-INFINITE, *phi.knots, INFINITE)
    chord = (phi.function(z[1:]) - phi.function(z[:-1])) / (z[1:] - z[:-1])
    for (start, end), slope in zip(itertools.pairwise(knots), phi.slopes, strict=True):
        inside = (z[:-1] >= start) & (z[1:] <= end)
        assert bool(((chord - slope).abs() < 1e-9)[inside].all())


def test_bends_are_not_rounded() -> None:
    """A bound of 0.1 in float64 is not that of float32, whatever the other bound is."""
    z = torch.zeros(1, 1, dtype=torch.float64)
    for phi in (Clamp(number(0.1)), Clamp(None, number(0.1)), Clamp(number(0.1), number(0.1))):
        (step,) = phi.relaxations(Zone(z, z - 1, z + 1, z, INFINITE[None])) or ()
        assert any(bool((k == number(0.1)).all()) for k in step.phi.knots)
