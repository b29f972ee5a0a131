"""Rule 11: boxes from backward rows are taken only where the rows prove them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llcert.checker import intermediate
from llcert.checker.files import InvalidCertificate

from .refined import (
    Held,
    case_of,
    changed,
    known,
    reason,
    with_rows,
)

SEEDS = range(12)


def test_boxes_need_their_rows() -> None:
    said = []
    for seed in SEEDS:
        case = case_of(seed)
        held = {n: v for n, v in case.found.arrays.items() if not n.endswith(".rows")}
        try:
            known(case, held)
        except InvalidCertificate as failure:
            said.append(str(failure)[: len("rule 2 (box), block")])
    assert set(said) == {"rule 2 (box), block"}
    assert len(said) >= len(SEEDS) // 2


BAD_ROWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "twice": (lambda v: np.repeat(v, 2), "not in order, or none"),
    "none": (lambda v: v[:0], "not in order, or none"),
    "backwards": (lambda v: np.append(v, 0), "not in order, or none"),
    "outside": (lambda v: np.append(v, 10**6), "an integer outside"),
    "negative": (lambda v: v - 10**6, "an integer outside"),
    "numbers": (lambda v: v.astype(float), "numbers of type"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_entries_are_some_of_the_block_in_order(name: str) -> None:
    to, said = BAD_ROWS[name]
    case, at = with_rows(".rows")
    key = f"{at['.rows']}.rows"
    assert said in reason(case, lambda a: a.update({key: to(a[key])}))


def test_a_row_stops_before_the_block_it_bounds() -> None:
    """A row that stopped at the block itself would prove its box by its box."""
    case, at = with_rows(".rows")
    k = at[".rows"]
    for stop in (k, k + 1, len(case.toy.nodes)):
        assert "an integer outside" in reason(case, lambda a, stop=stop: a.update({f"{k}.rows.stop": np.int64(stop)}))
    free = next(i for i in range(1, k) if i not in case.toy.cuts)
    said = reason(case, lambda a: a.update({f"{k}.rows.stop": np.int64(free)}))
    assert said == f"rule 11 (rows), block {k}: stop {free} is no cut before it"


@pytest.mark.parametrize("array", ["lower", "upper", "weights", "radius", "after", "norm"])
def test_first_regions_are_checked_by_every_rule_and_not_by_rows(array: str) -> None:
    """Tighter by a share, also where there are rows for the very block."""
    rules = {"lower": 2, "upper": 2, "weights": 3, "radius": 5, "after": 6, "norm": 4}
    named = 0
    for seed in SEEDS:
        case = case_of(seed)
        firsts = [n for n in case.found.arrays if n.startswith("first.") and f".{array}" in n]
        if not firsts:
            continue
        rowed = [n for n in firsts if f"{n.split('.')[1]}.rows" in case.found.arrays]

        def tighten(a: Held, name: str = (rowed or firsts)[0]) -> None:
            centre = a[f"{name.split('.')[1]}.centre"] if array in ("lower", "upper") else 0.0
            a[name] = centre + (a[name] - centre) * 0.98

        try:
            known(case, changed(case, tighten))
        except InvalidCertificate as failure:
            named += f"rule {rules[array]}" in str(failure)
    assert named >= 3


def test_a_first_region_has_the_centre_of_the_other() -> None:
    case, at = with_rows(".rows")
    k = at[".rows"]
    known(case, changed(case, lambda a: a.update({f"first.{k}.centre": a[f"{k}.centre"] * np.nan})))


def test_a_box_that_rows_do_not_reach_is_rejected() -> None:
    named = 0
    for seed in SEEDS:
        case = case_of(seed)
        blocks = [int(n.removesuffix(".rows")) for n in case.found.arrays if n.endswith(".rows")]
        for k in blocks:

            def tighten(a: Held, k: int = k) -> None:
                i = a[f"{k}.rows"]
                c = a[f"{k}.centre"][i]
                a[f"{k}.lower"][i] = c + (a[f"{k}.lower"][i] - c) * 0.999

            try:
                known(case, changed(case, tighten))
            except InvalidCertificate as failure:
                named += str(failure).startswith(f"rule 2 (box), block {k}")
    assert named >= 6


def test_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case, _ = with_rows(".rows")
    monkeypatch.setattr(intermediate, "MOST_WORK", 10)
    assert "rule 11 (rows)" in reason(case, lambda a: None)
