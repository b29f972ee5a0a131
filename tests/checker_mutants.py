"""Faults of the independent checker, each with the test that must fail where it stands (see mutants.py)."""

from __future__ import annotations

CHECKER = (
    (
        "a checker that takes a factorisation's word without making one",
        "proves",
        "schur(abs(matrix)) <= left or _gram_is_below(matrix, left)",
        "schur(abs(matrix)) <= left or left > 0",
        "tests/checker/test_norms.py::test_a_norm_is_proved_just_above_the_truth_and_never_below",
    ),
    (
        "the checker's tangent at its better end",
        "_least",
        "np.minimum(tangent * (p - z), tangent * (q - z))",
        "np.maximum(tangent * (p - z), tangent * (q - z))",
        "tests/checker/test_backward.py::test_the_least_value_of_a_step_is_below_all_and_no_more",
    ),
    (
        "a checker's sum that forgets one of two readers",
        "through_body",
        "part = rows[s] + part",
        "part = part * 1",
        "tests/checker/test_verify.py::test_what_is_proved_is_accepted_and_what_is_accepted_is_true",
    ),
    (
        "the checker's composed sizes underflow",
        "_map",
        "lambda n: n.floored, floored)",
        "lambda n: n.floored)",
        "tests/checker/test_underflow.py::test_a_composed_map_that_underflows",
    ),
    (
        "the checker's shares underflow",
        "_side_by_side",
        "np.maximum(weights[rows] * part.share, TINY)",
        "weights[rows] * part.share",
        "tests/checker/test_underflow.py::test_a_share_that_underflows",
    ),
    (
        "the checker's rows vanish for nothing",
        "through_body",
        "block.backwards * SMALLEST",
        "0.0 * SMALLEST",
        "tests/checker/test_underflow.py::test_a_row_that_underflows",
    ),
    (
        "the checker's upper bounds from rows of the lower ones",
        "BackwardBoxes._least",
        '1.0 if side == "lower" else -1.0',
        "1.0",
        "tests/checker/test_rows_and_parts.py::test_what_is_proved_is_accepted_and_what_is_accepted_is_true",
    ),
    (
        "the checker's best part of the ball in place of the worst",
        "margin",
        "bounds.min()",
        "bounds.max()",
        "tests/checker/test_rows_and_parts.py::test_what_is_proved_is_accepted_and_what_is_accepted_is_true",
    ),
    (
        "the checker's parts need not cover the ball",
        "_paths",
        "places[-1] == 0",
        "places[-1] >= 0",
        "tests/checker/test_margins.py::test_parts_cover_the_ball_only_as_the_leaves_of_one_whole_tree",
    ),
    (
        "a part of one value is empty to the checker",
        "_PartChoices.empty",
        "zone.lower > zone.upper",
        "zone.lower >= zone.upper",
        "tests/checker/test_margins.py::test_a_part_of_one_value_is_not_empty",
    ),
)
"""Names, targets, what is changed into what, and who notices it."""
