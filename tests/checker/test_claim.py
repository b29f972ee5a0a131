"""What a certificate claims: rows that suffice for one claim are taken for that claim alone, or for one it implies."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker import open_certificate
from llcert.checker.files import InvalidCertificate

from .cases import Case, only, random_case, rehash, write

SEEDS = [s for s in range(40) if random_case(s, margin=True).toy.classes >= 3][:12]


def written(case: Case, folder: Path) -> Path:
    return write(folder, case.toy, case.eps, [(case.label, case.found)])


def claiming(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "certificate.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def without_rows(folder: Path, classes: list[int]) -> None:
    with np.load(folder / "images/0.npz") as held:
        arrays = dict(held)
    np.savez(folder / "images/0.npz", **{k: v for k, v in arrays.items() if k not in [f"{j}.stop" for j in classes]})
    rehash(folder)


def never(folder: Path, target: int, reference: int) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["claim"] = {"never": target}
        content["images"][0].pop("label", None)
        content["images"][0]["reference"] = reference

    claiming(folder, edit)


def others(case: Case) -> list[int]:
    return [j for j in range(case.toy.classes) if j != case.label]


@pytest.mark.parametrize("seed", SEEDS)
def test_as_many_rows_may_be_missing_as_are_spared(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=True)
    folder = written(case, tmp_path)
    left_out = others(case)[: len(others(case)) - 1]
    for number, _ in enumerate(left_out, 1):
        without_rows(folder, left_out[:number])
        claiming(folder, lambda c, n=number: c.update(claim={"top": n}))
        assert only(folder).reason.endswith(".stop is missing")
        claiming(folder, lambda c, n=number: c.update(claim={"top": n + 1}))
        assert only(folder).accepted
    without_rows(folder, others(case))
    assert not only(folder).accepted


@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_that_is_never_answered_needs_its_own_row(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=True)
    folder = written(case, tmp_path)
    target, *rest = others(case)
    without_rows(folder, rest)
    if case.toy.nodes[-1]["size"] > case.toy.classes:
        return
    never(folder, target, case.label)
    assert only(folder).accepted
    assert only(folder).image.reference == case.label
    for wrong in rest:
        never(folder, wrong, case.label)
        assert not only(folder).accepted
    never(folder, target, target)
    assert not only(folder).accepted
    never(folder, case.label, target)
    assert not only(folder).accepted, "its answer is what the network never answers"
    claiming(folder, lambda c: c["images"][0].update(label=case.label))
    claiming(folder, lambda c: c.update(claim={"top": 1}))
    assert not only(folder).accepted


def test_the_zero_is_never_spared(tmp_path: Path) -> None:
    case = random_case(SEEDS[0], margin=True)
    folder = written(case, tmp_path)
    zero = case.toy.nodes[-1]["size"] - 1
    assert case.label != zero
    path = folder / "graph.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": zero}))
    rehash(folder)
    claiming(folder, lambda c: c.update(claim={"top": 1}))
    assert only(folder).accepted == (zero > 1)
    without_rows(folder, [zero])
    for claim in range(1, zero):
        claiming(folder, lambda c, k=claim: c.update(claim={"top": k}))
        assert only(folder).reason.endswith(f"{zero}.stop is missing")
    if zero > 1:
        target = next(j for j in range(zero) if j != case.label)
        never(folder, target, case.label)
        assert only(folder).reason.endswith(f"{zero}.stop is missing")


@pytest.mark.parametrize(
    "claim",
    [
        None,
        {},
        [],
        "top",
        {"top": 0},
        {"top": -1},
        {"top": True},
        {"top": 1.0},
        {"top": "1"},
        {"never": -1},
        {"never": None},
        {"always": 1},
        {"top": 1, "never": 2},
    ],
)
def test_a_claim_that_is_none_is_refused(claim: object, tmp_path: Path) -> None:
    folder = written(random_case(SEEDS[0], margin=True), tmp_path)
    claiming(folder, lambda c: c.update(claim=claim))
    with pytest.raises(InvalidCertificate, match="claim"):
        only(folder)


@pytest.mark.parametrize("claim", [{"top": 99}, {"never": 99}])
def test_a_claim_of_classes_that_are_none_is_rejected(claim: dict[str, int], tmp_path: Path) -> None:
    folder = written(random_case(SEEDS[0], margin=True), tmp_path)
    claiming(folder, lambda c: c["images"][0].update(reference=0))
    claiming(folder, lambda c: c.update(claim=claim))
    assert "there are" in only(folder).reason


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_every_image_may_have_its_own_eps(seed: int, tmp_path: Path) -> None:
    case = random_case(seed, margin=True)
    folder = written(case, tmp_path)

    def own(eps: object) -> Callable[[dict[str, Any]], None]:
        def edit(content: dict[str, Any]) -> None:
            content["eps"] = None
            content["images"][0]["eps"] = eps

        return edit

    claiming(folder, own(str(case.eps)))
    assert only(folder).accepted
    assert Fraction(open_certificate(folder).images[0].eps) >= case.eps
    claiming(folder, own(str(case.eps * 11 / 10)))
    assert not only(folder).accepted
    for wrong in ("-1", "nan", "", 0.1, None, "1/0"):
        claiming(folder, own(wrong))
        with pytest.raises(InvalidCertificate, match="eps"):
            only(folder)
    claiming(folder, own(str(case.eps)))
    claiming(folder, lambda c: c.update(eps=str(case.eps)))
    with pytest.raises(InvalidCertificate, match="eps of its own"):
        only(folder)
    claiming(folder, lambda c: c.pop("eps"))
    with pytest.raises(InvalidCertificate, match="eps"):
        only(folder)
