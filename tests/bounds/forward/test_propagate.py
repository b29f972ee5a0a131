"""Regions, norms and the global bound on networks small enough to know everything about them."""

from __future__ import annotations

import itertools

import pytest
import torch
from dense import exact_norm, matrix
from drawing import normal
from torch import Tensor

from llcert.bounds import EstimatedArithmetic, GlobalBound, RowWeighting, Start, global_bound, propagate
from llcert.bounds.forward.row_weights import row_weights
from llcert.bounds.global_lipschitz.estimate import _crude
from llcert.domain.region import Region, ball
from llcert.ir import Activation, Input, Network, apply
from llcert.ops import Add, Affine, Clamp, Concat, Leaky, Linear, MaxMin, relu
from llcert.program import Program, lower
from llcert.spectral import Masked, PowerIteration

TIGHT = PowerIteration(tolerance=1e-7, cap=20000)
EPS = 0.2


def _net(phi: Activation, seed: int = 0, widths: tuple[int, ...] = (3, 6, 4, 3)) -> Program:
    node = apply(Input(widths[:1]))
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        bias = normal(after, seed=seed + 100 + number) / 2
        node = apply(Linear(normal(after, before, seed=seed + number) / before**0.5, bias), node)
        if number < len(widths) - 2:
            node = apply(phi, node)
    return lower(Network(node), dtype=torch.float64)


def _image(seed: int = 0, size: int = 3, count: int = 1) -> Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _values(program: Program, points: Tensor) -> dict:
    values = {program.input: points}
    for block in program.blocks:
        z = block.value(values)
        values[block.node] = z if block.activation is None else block.activation(z)
    return values


PHIS = {
    "relu": relu(),
    "relu-theta": Clamp(torch.zeros(()), torch.tensor(0.5)),
    "leaky": Leaky(torch.tensor(0.1)),
    "abs": Leaky(torch.tensor(-1.0)),
    "maxmin": MaxMin(0),
}


def test_the_first_box_is_the_exact_range() -> None:
    """Over the ball intersected with a box of its own size, the first map's range is known in closed form."""
    program, image = _net(relu()), _image()
    bound = global_bound(program, TIGHT)
    before = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, solver=TIGHT)).pre_activation[
        program.blocks[0].node
    ]
    weight = matrix(program.blocks[0].terms[0])
    reach = EPS * torch.linalg.vector_norm(weight, dim=1)
    assert torch.allclose(before.upper, before.centre + reach)
    assert torch.allclose(before.lower, before.centre - reach)


@pytest.mark.parametrize("factors", [(3.0, 3.0, 3.0), (0.25, -2.0, 1.0)])
def test_a_ball_is_stretched_by_factors_on_its_way_to_the_first_sum(factors: tuple[float, ...]) -> None:
    scale, weight = torch.tensor(factors, dtype=torch.float64), normal(4, 3, seed=3)
    hidden = apply(Linear(weight), apply(Affine(scale), apply(Input((3,)))))
    output = apply(Linear(normal(2, 4, seed=4)), apply(relu(), hidden))
    program, image = lower(Network(output), dtype=torch.float64), _image()
    trace = propagate(program, ball(image, EPS), EstimatedArithmetic(global_bound(program, TIGHT), solver=TIGHT))
    before = trace.pre_activation[program.blocks[0].node]
    reach = EPS * torch.linalg.vector_norm(weight * scale, dim=1)
    assert torch.allclose(before.upper, before.centre + reach)
    assert torch.allclose(before.lower, before.centre - reach)


def test_a_box_without_a_ball_is_interval_arithmetic() -> None:
    program, image = _net(relu()), _image()
    wide = Region(image, image - EPS, image + EPS, torch.tensor([100.0], dtype=torch.float64))
    before = propagate(program, wide, EstimatedArithmetic(global_bound(program, TIGHT), solver=TIGHT)).pre_activation[
        program.blocks[0].node
    ]
    corners = torch.cartesian_prod(*(torch.tensor([-EPS, EPS], dtype=torch.float64),) * 3) + image
    z = program.blocks[0].value({program.input: corners})
    assert torch.allclose(before.upper[0], z.amax(0))
    assert torch.allclose(before.lower[0], z.amin(0))


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("seed", range(4))
def test_everything_stays_inside(phi: str, seed: int) -> None:
    program, image = _net(PHIS[phi], seed), _image(seed)
    bound = global_bound(program, TIGHT)
    grid = torch.cartesian_prod(*(torch.linspace(-EPS, EPS, 13, dtype=torch.float64),) * 3)
    values = _values(program, image + grid[torch.linalg.vector_norm(grid, dim=1) <= EPS])
    everyone = torch.zeros(len(values[program.input]), dtype=torch.int64)
    for weighting in RowWeighting:
        trace = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, solver=TIGHT), weighting=weighting)
        for block in program.blocks:
            hidden = trace.post_activation[block.node]
            assert hidden.region.select(everyone).contains(values[block.node], tolerance=1e-9).all()
            moved = (values[block.node] - hidden.region.centre).abs() > 1e-12
            assert not (moved & ~hidden.varying).any(), "a constant output moved"


@pytest.mark.parametrize("phi", PHIS)
def test_theorem_1_and_masked_norms(phi: str) -> None:
    for seed in range(4):
        program, image = _net(PHIS[phi], seed), _image(seed)
        bound = global_bound(program, TIGHT)
        masked = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, solver=TIGHT))
        sharper = propagate(
            program, ball(image, EPS), EstimatedArithmetic(bound, solver=TIGHT), weighting=RowWeighting.SECANT
        )
        assert masked.logit_lipschitz is not None
        assert sharper.logit_lipschitz is None, "a radius from secants is no Lipschitz constant"
        assert (masked.logit_lipschitz <= bound.logit_lipschitz).all()
        for block in program.blocks:
            (term,) = block.terms
            weights = row_weights(block, masked.pre_activation[block.node], RowWeighting.SLOPE)
            columns = masked.post_activation[term.source].varying.double()
            truth = exact_norm(Masked(term, weights, columns))
            assert float(masked.norms[term].value) == pytest.approx(truth, rel=1e-5, abs=1e-12)
            radii = [t.post_activation[block.node].region.radius for t in (sharper, masked)]
            assert (radii[0] <= radii[1] * (1 + 1e-9)).all()


@pytest.mark.parametrize("phi", PHIS)
def test_the_global_bound_times_the_distance_bounds_the_movement(phi: str) -> None:
    program = _net(PHIS[phi], 7)
    points = normal(2000, 3, seed=1)
    moved = torch.linalg.vector_norm(program.logits(points[:1000]) - program.logits(points[1000:]), dim=1)
    distance = torch.linalg.vector_norm(points[:1000] - points[1000:], dim=1)
    assert (moved <= global_bound(program, TIGHT).logit_lipschitz * distance * (1 + 1e-9)).all()


def test_nothing_varies_in_a_dead_network() -> None:
    node = apply(Linear(normal(4, 3, seed=0), torch.full((4,), -100.0)), apply(Input((3,))))
    node = apply(Linear(normal(2, 4, seed=1)), apply(relu(), node))
    program = lower(Network(node), dtype=torch.float64)
    trace = propagate(program, ball(_image(), EPS), EstimatedArithmetic(global_bound(program, TIGHT), solver=TIGHT))
    assert not trace.post_activation[program.blocks[0].node].varying.any()
    assert trace.post_activation[program.output].region.radius == 0
    assert trace.logit_lipschitz == 0


def test_no_room_keeps_every_value_where_it_is() -> None:
    program, image = _net(relu()), _image(count=3)
    trace = propagate(program, ball(image, 0.0), EstimatedArithmetic(global_bound(program, TIGHT)))
    for block in program.blocks:
        region = trace.post_activation[block.node].region
        assert (region.radius == 0).all()
        assert torch.equal(region.lower, region.upper)


@pytest.mark.parametrize("cap", [0, 1])
def test_norms_that_did_not_converge_fall_back_on_the_global_ones(cap: int) -> None:
    program, image = _net(relu()), _image()
    bound = global_bound(program, TIGHT)
    trace = propagate(
        program, ball(image, EPS), EstimatedArithmetic(bound, solver=PowerIteration(tolerance=1e-12, cap=cap))
    )
    for term, norm in trace.norms.items():
        assert (norm.converged | (norm.value == bound.norms[term])).all()
    (first,) = program.blocks[0].terms
    assert not trace.norms[first].converged.any()
    assert trace.logit_lipschitz is not None
    assert (trace.logit_lipschitz <= bound.logit_lipschitz).all()


def test_a_global_norm_that_did_not_converge_is_answered_by_a_crude_upper_bound() -> None:
    program = _net(relu(), widths=(3, 6, 3))
    bound = global_bound(program, PowerIteration(tolerance=1e-12, cap=1))
    for block in program.blocks:
        (term,) = block.terms
        assert float(bound.norms[term]) >= float(torch.linalg.matrix_norm(matrix(term), 2))


def test_without_a_crude_bound_the_unfinished_norm_stands() -> None:
    program, solver = _net(relu(), widths=(3, 6, 3)), PowerIteration(tolerance=1e-12, cap=1)
    bound = global_bound(program, solver, crude=False)
    for block in program.blocks:
        (term,) = block.terms
        assert float(bound.norms[term]) < float(torch.linalg.matrix_norm(matrix(term), 2))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_crude_bound_is_an_upper_bound_at_every_scale(scale: float) -> None:
    for seed in range(10):
        weight = normal(5, 7, seed=seed)
        program = lower(Network(apply(Linear((weight * scale).float()), apply(Input((7,))))))
        rows = torch.rand(1, 5, generator=torch.Generator().manual_seed(seed))
        crude = float(_crude(program.blocks[0].terms[0], rows, torch.ones(1, 7))) / scale
        assert crude >= float(torch.linalg.matrix_norm(rows[0][:, None] * weight, 2)) * (1 - 1e-6)


def test_branches_and_concatenations_are_never_below_the_dense_norm() -> None:
    image = apply(Input((3,)))
    hidden = apply(relu(), apply(Linear(normal(3, 3, seed=0)), image))
    for output in (apply(Add(), hidden, image), apply(Concat(0), hidden, image)):
        program = lower(Network(output), dtype=torch.float64)
        bound = global_bound(program, TIGHT)
        points = normal(2000, 3, seed=2)
        moved = torch.linalg.vector_norm(program.logits(points[:1000]) - program.logits(points[1000:]), dim=1)
        distance = torch.linalg.vector_norm(points[:1000] - points[1000:], dim=1)
        assert (moved <= bound.logit_lipschitz * distance * (1 + 1e-9)).all()
        trace = propagate(program, ball(_image(), EPS), EstimatedArithmetic(bound, solver=TIGHT))
        assert trace.logit_lipschitz is not None
        assert (trace.logit_lipschitz <= bound.logit_lipschitz * (1 + 1e-9)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12])
def test_small_weights_do_not_close_the_box(scale: float) -> None:
    """The squares of float32 weights vanish below 1e-22; the values they move do not."""
    image = apply(Input((3,)))
    hidden = apply(relu(), apply(Linear(normal(3, 3, seed=0).float() * scale, torch.full((3,), 2 * scale)), image))
    for output in (apply(Linear(torch.eye(3) / scale), hidden), apply(Concat(0), hidden, apply(relu(), hidden))):
        program = lower(Network(output))
        trace = propagate(program, ball(_image().float(), EPS), EstimatedArithmetic(global_bound(program)))
        points = _image().float() + EPS * torch.nn.functional.normalize(normal(50, 3, seed=1).float())
        values, everyone = _values(program, points), torch.zeros(50, dtype=torch.int64)
        for block in program.blocks:
            region = trace.post_activation[block.node].region
            away = (values[block.node] - region.centre) / region.radius
            assert torch.linalg.vector_norm(away, dim=1).max() <= 1 + 1e-3
            above = (values[block.node] - region.centre) <= (region.upper - region.centre) * (1 + 1e-3)
            assert above.all()
            assert region.select(everyone).contains(values[block.node], tolerance=1e-6).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poisoned_weights_leave_no_finite_radius(poison: float) -> None:
    weight = normal(4, 3, seed=0)
    weight[0, 0] = poison
    hidden = apply(relu(), apply(Linear(weight), apply(Input((3,)))))
    program = lower(Network(apply(Linear(normal(2, 4, seed=1)), hidden)), dtype=torch.float64)
    bound = global_bound(program)
    assert not bound.logit_lipschitz.isfinite()
    trace = propagate(program, ball(_image(), EPS), EstimatedArithmetic(bound))
    assert not trace.post_activation[program.output].region.radius.isfinite().any()


def _diagonal(seed: int) -> tuple[Program, GlobalBound, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.diag(torch.rand(4, generator=generator, dtype=torch.float64) + 0.5)
    bias = -0.8 * torch.rand(4, generator=generator, dtype=torch.float64)
    hidden = apply(relu(), apply(Linear(weight, bias), apply(Input((4,)))))
    program = lower(Network(apply(Linear(normal(3, 4, seed=seed)), hidden)), dtype=torch.float64)
    return program, global_bound(program), torch.rand(1, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(20))
def test_a_start_at_the_wrong_singular_vector_does_not_stop_there(seed: int) -> None:
    """The unmasked singular vector of a diagonal map is one of the masked map too, but not its first.

    A few percent below the norm is what the paper's stopping rule may do where two singular values are close.
    """
    program, bound, image = _diagonal(seed)
    block = program.blocks[0]
    for weighting in RowWeighting:
        trace = propagate(
            program, ball(image, 0.3), EstimatedArithmetic(bound, start=Start.UNMASKED, seed=seed), weighting=weighting
        )
        truth = exact_norm(
            Masked(block.terms[0], row_weights(block, trace.pre_activation[block.node], weighting), torch.ones(1, 4))
        )
        assert float(trace.norms[block.terms[0]].value) >= truth * (1 - 3e-2)


def test_saved_starts_are_used_and_seeds_reproduce() -> None:
    program, image = _net(relu(), widths=(3, 40, 40, 3)), _image()
    bound = global_bound(program, TIGHT)
    first = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, solver=PowerIteration(), seed=1))
    again = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, solver=PowerIteration(), seed=1))
    saved = {t: n.vector for t, n in first.norms.items()}
    warm = propagate(
        program,
        ball(image, EPS),
        EstimatedArithmetic(bound, solver=PowerIteration(least=1), start=Start.SAVED, saved=saved),
    )
    for term, norm in first.norms.items():
        assert torch.equal(norm.value, again.norms[term].value)
        assert (warm.norms[term].iterations <= 2).all()
    lonely = propagate(program, ball(image, EPS), EstimatedArithmetic(bound, start=Start.SAVED))
    assert all(n.converged.all() for n in lonely.norms.values()), "without vectors a random start answers"


def test_a_batch_is_its_images_one_by_one() -> None:
    program, images = _net(relu()), _image(count=4)
    bound = global_bound(program, TIGHT)
    together = propagate(program, ball(images, EPS), EstimatedArithmetic(bound, solver=TIGHT))
    for i in range(4):
        alone = propagate(program, ball(images[i : i + 1], EPS), EstimatedArithmetic(bound, solver=TIGHT))
        for block in program.blocks:
            one, many = alone.post_activation[block.node].region, together.post_activation[block.node].region
            assert torch.allclose(one.radius[0], many.radius[i], rtol=1e-5)
            assert torch.allclose(one.upper[0], many.upper[i], rtol=1e-5)


@pytest.mark.parametrize("phi", [MaxMin(0), Leaky(torch.tensor(-1.0)), Leaky(torch.tensor(2.0))])
def test_where_nothing_is_constant_the_unmasked_norm_is_all_there_is(phi: Activation) -> None:
    """It is taken over, without an iteration; a slope that is nowhere the largest is not the unmasked map."""
    program, images = _net(phi), _image(count=4) * 1e-3
    bound = global_bound(program, TIGHT)
    norms = propagate(program, ball(images, 10.0), EstimatedArithmetic(bound)).norms
    spared = isinstance(phi, MaxMin) or phi.label == "Abs"
    for term, norm in norms.items():
        torch.testing.assert_close(norm.value, bound.norms[term].expand(4))
        assert (norm.iterations == 0).all() or not spared
