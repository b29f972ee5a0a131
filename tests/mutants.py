"""One-line faults of the kind that make certificates false, each with the test that must fail where it stands.

A fault names what it changes (a function or a method, by its qualified name, wherever its file may move) and the
change: a piece of its source that occurs once, and what takes its place. `apply` makes the change in this process;
`pytest --mutant NAME` does so before the tests.
"""

from __future__ import annotations

from checker_mutants import CHECKER
from mutant import Mutant

MUTANTS = (
    # who owns a norm
    Mutant(
        "two activations of one value share a norm",
        "_block",
        "Term(s, reached(s, body), pre, node)",
        "Term(s, reached(s, body), pre, pre)",
        "tests/certification/test_shared_values.py::test_each_activation_of_a_value_has_the_norm_of_its_own_slope",
    ),
    Mutant(
        "a global norm without its slope",
        "_ProvedConstants.sloped",
        "DOUBLE.above(self.plain[term] * self.slopes[block.node])",
        "DOUBLE.above(self.plain[term])",
        "tests/certification/test_shared_values.py::test_each_activation_of_a_value_has_the_norm_of_its_own_slope",
    ),
    Mutant(
        "an estimated global norm without its slope",
        "_largest_slopes",
        "rows = rows * block.activation.global_slope(block.pre.shape).to(rows)",
        "rows = rows * 1",
        "tests/certification/test_shared_values.py::test_each_activation_of_a_value_has_the_norm_of_its_own_slope",
    ),
    Mutant(
        "a norm of the images that asked before",
        "CachingSolver.__call__",
        "~(_same(masked.rows, before.rows) & _same(masked.columns, before.columns))",
        "~_same(masked.rows, before.rows)",
        "tests/spectral/test_caching.py::test_only_changed_maps_are_asked_again",
    ),
    Mutant(
        "the forward passes of other images",
        "BoundsSoFar.select",
        "t.select(positions)",
        "t.select(torch.arange(len(self.bounds[positions])))",
        "tests/certification/test_estimator.py::test_later_stages_start_from_the_forward_passes_of_their_own_images",
    ),
    # boxes and regions
    Mutant(
        "max for min where a ball cuts a box",
        "_through",
        "minimum(upper, centre + deviation)",
        "minimum(upper, centre)",
        "tests/bounds/forward/test_propagate.py::test_the_first_box_is_the_exact_range",
    ),
    Mutant(
        "a box without the half-width's absolute matrix",
        "_through",
        "magnitude.linear(half)",
        "node.op.linear(half)",
        "tests/bounds/forward/test_propagate.py::test_the_first_box_is_the_exact_range",
    ),
    Mutant(
        "a ball without the factors of a moved value",
        "_through",
        "magnitude.linear(ball.factors)",
        "magnitude.linear(ball.factors).clamp(max=1)",
        "tests/bounds/forward/test_propagate.py::test_a_ball_is_stretched_by_factors_on_its_way_to_the_first_sum",
    ),
    Mutant(
        "an enclosure that is not widened by float64's errors",
        "widened",
        "downwards(z.lower - error)",
        "z.lower",
        "tests/bounds/forward/test_verified.py::test_values_in_float32_lie_inside_whatever_the_order_of_sums",
    ),
    Mutant(
        "the centre's error left out of a radius",
        "VerifiedArithmetic.radius",
        "radius + roundoff.length(weights)",
        "radius",
        "tests/bounds/forward/test_verified.py::test_values_in_float32_lie_inside_whatever_the_order_of_sums",
    ),
    Mutant(
        "the errors of a block at the centre of its sources taken for those anywhere in their balls",
        "BlockRoundoff.length",
        "distance(self.centre_error, weights) + DOUBLE.above(largest_weight * self.growth)",
        "distance(self.centre_error, weights)",
        "tests/bounds/forward/test_growth.py::test_measured_errors_far_from_a_centre_of_zeros_are_covered",
    ),
    Mutant(
        "an entry that is zero at the centre alone counted as zero",
        "_centre_size",
        "region.centre.abs().clamp(min=DOUBLE.tiny)",
        "region.centre.abs()",
        "tests/bounds/forward/test_growth.py::test_terms_that_are_zero_at_the_centre_round_elsewhere",
    ),
    Mutant(
        "an activation's error left out of a radius",
        "activation_image",
        "DOUBLE.above(radius + distance(error), 2)",
        "radius",
        "tests/bounds/forward/test_verified.py::test_values_in_float32_lie_inside_whatever_the_order_of_sums",
    ),
    Mutant(
        "the deployed rounding left out",
        "affine_image",
        "upwards(error + more)",
        "error",
        "tests/bounds/forward/test_verified.py::test_values_in_float32_lie_inside_whatever_the_order_of_sums",
    ),
    Mutant(
        "overflow of the deployed format ignored",
        "_unless_overflown",
        "fits = fits & flat(4 * largest(hidden.region) < form.largest).all(1)",
        "fits = torch.ones_like(fits)",
        "tests/certification/test_hostile.py::test_what_is_nan_in_float32_is_not_certified",
    ),
    Mutant(
        "an input's box cut to the pixel range though nobody asked",
        "enclosing_ball",
        "lost = DOUBLE.nearest(images.abs())",
        "region, lost = region.clamped(0.0, 1.0), DOUBLE.nearest(images.abs())",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "the roundings of a sum left out",
        "BlockSizes._own_error",
        "roundings * size + (terms.count - 1).clamp(min=0) * partial",
        "roundings * size",
        "tests/bounds/forward/test_roundoff.py::test_no_order_of_summation_errs_more_than_the_bound",
    ),
    # masks
    Mutant(
        "a mask too many: constant at the threshold from below",
        "Clamp.gaps",
        "z.upper - self.low",
        "z.centre - self.low",
        "tests/bounds/forward/test_propagate.py::test_everything_stays_inside",
    ),
    Mutant(
        "MaxMin's rows dropped where one of two outputs is constant",
        "MaxMin.slope",
        "either = largest | smallest",
        "either = largest & smallest",
        "tests/ops/test_contract.py::TestActivation::test_slope_bounds_every_pair_of_points",
    ),
    Mutant(
        "MaxMin's maximum constant once both lower bounds pass",
        "MaxMin.gaps",
        "torch.maximum(lower_a, lower_b), torch.minimum(upper_a, upper_b)",
        "torch.maximum(upper_a, upper_b), torch.minimum(upper_a, upper_b)",
        "tests/ops/test_contract.py::TestActivation::test_constant_outputs_do_not_move",
    ),
    Mutant(
        "a mask that NaN closes",
        "Activation.varying",
        "constant = gaps[0] <= 0",
        "constant = ~(gaps[0] > 0)",
        "tests/ops/test_contract.py::TestActivation::test_nan_varies_and_has_full_slope",
    ),
    Mutant(
        "an overlapping pool with slope one",
        "MaxPool.global_slope",
        "torch.ones_like(e, dtype=torch.bool)",
        "e < 0",
        "tests/ops/test_contract.py::TestActivation::test_secant_at_most_slope_at_most_global",
    ),
    Mutant(
        "a pool's windows lost where a maximum ties",
        "MaxPool.slope",
        "~(entries < window)",
        "entries > window",
        "tests/ops/test_contract.py::TestActivation::test_nan_varies_and_has_full_slope",
    ),
    Mutant(
        "a leaky slope above one forgotten",
        "Leaky.global_slope",
        "self.slope_below.abs().clamp(min=1)",
        "self.slope_below.abs().clamp(max=1)",
        "tests/ops/test_contract.py::TestActivation::test_secant_at_most_slope_at_most_global",
    ),
    Mutant(
        "a leaky ReLU's box by its ends",
        "Leaky.box",
        "torch.where(knot_inside, least.clamp(max=0), least)",
        "least",
        "tests/ops/test_contract.py::TestActivation::test_samples_stay_in_the_box",
    ),
    Mutant(
        "a sigmoid's slope at the centre",
        "_Bell.slope",
        "self.derivative(nearest)",
        "self.derivative(z.centre)",
        "tests/ops/test_contract.py::TestActivation::test_slope_bounds_every_pair_of_points",
    ),
    Mutant(
        "a secant not the steepest",
        "Leaky.secant",
        "steepest = torch.maximum(steepest, torch.where(end == z.centre, at_centre, chord))",
        "steepest = torch.minimum(steepest, torch.where(end == z.centre, at_centre, chord))",
        "tests/ops/test_contract.py::TestActivation::test_secant_bounds_deviation_from_the_centre",
    ),
    # several sources
    Mutant(
        "terms that add up combined like a concatenation",
        "_together",
        "math.hypot(*parts) if block.disjoint else sum(parts)",
        "math.hypot(*parts)",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "the deviation of terms that add up like that of a concatenation",
        "TermNorms.deviation",
        "total = parts.sum(0)",
        "total = length(parts.T)",
        "tests/bounds/forward/test_joins.py::test_between_what_is_reached_and_the_sum",
    ),
    Mutant(
        "the joint norm of weighted terms without the weights",
        "TermNorms.deviation",
        "torch.stack(list(radii)) / self.joint.weights",
        "torch.stack(list(radii))",
        "tests/bounds/forward/test_joins.py::test_between_what_is_reached_and_the_sum",
    ),
    Mutant(
        "the same value twice counted once in an adjoint",
        "Term._backward",
        "pending[i] + part if i in pending else part",
        "part",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    # norms
    Mutant(
        "a factorisation that broke off taken for a proof",
        "eigenvalue_bound",
        "(info == 0) & torch.isfinite(bound)",
        "torch.isfinite(bound)",
        "tests/spectral/proof/test_verified_cholesky.py::test_a_proof_below_the_norm_fails",
    ),
    Mutant(
        "a proved norm a thousandth too small",
        "VerifiedArithmetic.norm",
        "value=torch.where(proved, found.value, ceiling)",
        "value=torch.where(proved, found.value * 0.999, ceiling)",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "a remainder that LipLT forgets",
        "Composed.of",
        "origins = (*origins, origin)",
        "origins = (*origins, origin)[:1]",
        "tests/bounds/test_liplt.py::test_never_below_the_norm_of_a_jacobian",
    ),
    Mutant(
        "a global radius without what evaluations slip",
        "VerifiedArithmetic.radius",
        "lipschitz * inputs.eps + roundoff.slip",
        "lipschitz * inputs.eps",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "a global radius with what a deployed evaluation slips, but not float64's centre",
        "VerifiedArithmetic._slip",
        "own = own + distance(roundoff.float64, slopes)",
        "pass",
        "tests/bounds/forward/test_verified.py::test_a_slip_pays_for_float64_at_the_centre_and_for_the_evaluation",
    ),
    Mutant(
        "a pair's margin without what evaluations slip",
        "pairwise_margins",
        "moved + slip",
        "moved",
        "tests/bounds/test_liplt.py::test_margins_of_pairs_pay_for_rounding",
    ),
    Mutant(
        "an unconverged estimate trusted",
        "_local_norm",
        "norm.converged & (norm.value <= ceiling)",
        "norm.value <= ceiling",
        "tests/bounds/forward/test_propagate.py::test_norms_that_did_not_converge_fall_back_on_the_global_ones",
    ),
    Mutant(
        "a convolution's adjoint with the wrong padding",
        "Conv.adjoint",
        "self.weight, None, self.stride, self.padding, unread",
        "self.weight, None, self.stride, (0,) * len(unread), unread",
        "tests/ops/test_contract.py::TestLinear::test_adjoint",
    ),
    Mutant(
        "the unpadded torus",
        "_count",
        "min(inputs, end) + max(padding, end - inputs)",
        "min(inputs, end)",
        "tests/spectral/proof/test_circulant.py::test_convolutions",
    ),
    Mutant(
        "the least of a convolution's groups",
        "torus_bound",
        "return max(_group_bound",
        "return min(_group_bound",
        "tests/spectral/proof/test_circulant.py::test_convolutions",
    ),
    # backward pass
    Mutant(
        "what is pending overwritten where rows meet",
        "LinearBound.plus",
        "known[node] + part if node in known else part",
        "part",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "the deployed errors of a block left out of a row",
        "_row_error",
        "roundoff.size + roundoff.error",
        "roundoff.size",
        "tests/certification/test_shared_graphs.py::test_bounds_of_networks_with_shared_values",
    ),
    Mutant(
        "an offset forgotten",
        "through_linear_map",
        "sharing.sums(g * offset)",
        "sharing.sums(g * 0)",
        "tests/bounds/backward/test_crown.py::test_no_point_lies_below_the_bound",
    ),
    Mutant(
        "a multiplier's radius left out",
        "_Minimum.least",
        "lam * self.radius * self.radius / 2",
        "lam * self.radius * self.radius / 4",
        "tests/domain/test_relaxation.py::test_no_point_of_the_zone_lies_below_the_bound",
    ),
    Mutant(
        "an entry's minimum over two of three pieces",
        "_Minimum.entries",
        "least = torch.minimum(value, least)",
        "least = value",
        "tests/domain/test_relaxation.py::test_no_point_of_the_zone_lies_below_the_bound",
    ),
    Mutant(
        "MaxMin's rotated corners",
        "MaxMin._sorting",
        "lower_a - upper_b, -1), _outwards(upper_a - lower_b, 1)",
        "lower_a - lower_b, -1), _outwards(upper_a - upper_b, 1)",
        "tests/domain/test_relaxation.py::test_no_point_of_the_zone_lies_below_the_bound",
    ),
    Mutant(
        "the margin's ball without the half that the box leaves",
        "largest_increase",
        "torch.where(value < best, value, best)",
        "torch.where(value < best, value, best) * 0.99",
        "tests/bounds/test_margin.py::test_largest_increase_is_the_maximum",
    ),
    Mutant(
        "entries share a row though something meets",
        "_pass_on",
        "(before != arriving)[both].any()",
        "False",
        "tests/bounds/backward/test_intermediate.py::test_shared_rows_give_what_each_row_gives_alone",
    ),
    Mutant(
        "a part of the ball lost between two cuts",
        "bounded",
        "with_splits(backward, trace, leaves.splits)",
        "with_splits(backward, trace, {k: (low, high.clamp(max=0.0)) for k, (low, high) in leaves.splits.items()})",
        "tests/bounds/backward/test_branch_and_bound.py::test_every_point_lies_in_a_part_of_each_row_and_above_its_bound",
    ),
    Mutant(
        "the best part of the ball in place of the worst",
        "branched",
        "bounds.amin()",
        "bounds.amax()",
        "tests/bounds/backward/test_branch_and_bound.py::test_what_parts_prove_together_no_point_of_the_ball_contradicts",
    ),
    # evidence
    Mutant(
        "the best part of a cover taken for all of it",
        "_in_all_parts",
        "worst = found.lower.amin()",
        "worst = found.lower.amax()",
        "tests/certification/proof/test_evidence.py::test_a_cover_is_as_good_as_its_worst_part",
    ),
    # verdicts
    Mutant(
        "a tie certified",
        "positive",
        "(margin > 0)",
        "(margin >= 0)",
        "tests/certification/test_stages.py::test_positive_is_strict",
    ),
    Mutant(
        "an attack that contradicts a certificate overlooked",
        "_Results._with_verdict",
        "raise Contradiction",
        "0 and Contradiction",
        "tests/certification/test_cascade.py::test_certified_and_broken_at_once_stops_the_run",
    ),
    Mutant(
        "a proof of another radius",
        "_best",
        "above(chosen.radii)",
        "above(batch.radii[: len(still)])",
        "tests/certification/test_specification.py::test_each_image_has_its_own_radius",
    ),
    *(Mutant(*fault) for fault in CHECKER),
    # number formats
    Mutant(
        "a cast that rounds nothing",
        "converted",
        "SINGLE.unit * reached if form is SINGLE else torch.zeros_like(reached)",
        "torch.zeros_like(reached)",
        "tests/bounds/forward/test_formats.py::test_narrowing_costs_one_rounding_and_widening_none",
    ),
    Mutant(
        "a cast that never overflows",
        "converted",
        "torch.where(4 * reached < form.largest, found, torch.inf)",
        "found",
        "tests/bounds/forward/test_formats.py::test_a_cast_that_may_overflow_has_no_bound",
    ),
    Mutant(
        "a cast taken for a copy",
        "BlockSizes.deployed_error",
        "any(i.dtype != node.dtype for i in node.inputs)",
        "False",
        "tests/bounds/forward/test_formats.py::test_the_last_cast_counts",
    ),
    Mutant(
        "one format for the whole network",
        "Op.result_type",
        "return dtypes[0]",
        "return torch.float64",
        "tests/bounds/forward/test_formats.py::test_layers_in_float32_cost_what_float32_rounds_also_below_a_float64_one",
    ),
    Mutant(
        "a single number that decides the format",
        "promoted",
        "isinstance(v, Node) or v.ndim > 0",
        "True",
        "tests/frontend/test_formats.py::test_torch_promotes_as_torch_does",
    ),
    Mutant(
        "a quotient as a product with what is stored of the reciprocal",
        "quotient",
        "Affine(scale=1 / divisor) if exact and not divisor.requires_grad else Divide(divisor)",
        "Affine(scale=1 / divisor)",
        "tests/frontend/test_real_numbers.py::test_a_file_keeps_its_function",
    ),
    Mutant(
        "coefficients multiplied in the format of the weights",
        "rounded_once",
        "narrow if torch.equal(narrow.double(), wide) else wide",
        "narrow",
        "tests/frontend/test_real_numbers.py::test_a_module_keeps_its_function",
    ),
    Mutant(
        "a variance below zero",
        "normalised",
        "if not (eps >= 0 and bool((variance >= 0).all())):",
        "if False:",
        "tests/frontend/test_formats.py::test_what_is_not_modelled_is_refused_by_name",
    ),
    Mutant(
        "the checker's conversions round nothing",
        "_converted",
        "max(form.unit - value.form.unit, 0.0) * value.size + FLUSHED",
        "0.0 * value.size + FLUSHED",
        "tests/checker/test_deployed_formats.py::test_a_conversion_to_float32_costs_one_rounding",
    ),
    Mutant(
        "the checker takes the errors at a centre for those anywhere in the ball",
        "length_around_centre",
        "above(float(weights.max()) * further, 1)",
        "0.0",
        "tests/checker/test_growth.py::test_a_radius_that_forgets_the_ball_is_rejected",
    ),
    Mutant(
        "the checker takes every sum for one in float64",
        "_added",
        "form.unit * (once * size + sums * partial)",
        "2.0**-53 * (once * size + sums * partial)",
        "tests/checker/test_deployed_formats.py::test_rounding_is_that_of_each_type",
    ),
)
"""What a test must notice."""


def table() -> list[str]:
    """The lines of the table in docs/soundness.md."""
    return [f"| {m.name} | `{m.target}` | `{m.caught_by.removeprefix('tests/')}` |" for m in MUTANTS]


def named(name: str) -> Mutant:
    """The mutant of that name. Raises KeyError."""
    return {m.name: m for m in MUTANTS}[name]
