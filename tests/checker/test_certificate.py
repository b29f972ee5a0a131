"""certificate.json: the radius, the classes, and claims that are none."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llcert.checker import check, open_certificate
from llcert.checker.files import InvalidCertificate

from .cases import change, only, random_case, written


def test_claims_that_are_none_are_rejected(tmp_path: Path) -> None:
    case = random_case(2, margin=True)
    folder = written(case, tmp_path)
    change(folder, "certificate.json", lambda c: c["images"].append(dict(c["images"][0])))
    first, second = check(folder)
    assert first.accepted
    assert second.reason == "image 0: certificate.json lists it twice"
    change(folder, "certificate.json", lambda c: c["images"].pop())
    change(folder, "certificate.json", lambda c: c["images"][0].update(label=case.toy.classes))
    assert "there are" in only(folder).reason
    change(folder, "certificate.json", lambda c: c["images"][0].update(label=case.label))
    change(folder, "images/0.npz", lambda a: a.update(x=a["x"] * np.nan))
    assert only(folder).reason == "image 0: images/0.npz: x: NaN or inf"


def test_classes_are_those_of_the_last_node(tmp_path: Path) -> None:
    case = random_case(4, margin=True)
    folder = written(case, tmp_path)
    for wrong in (case.toy.nodes[-1]["size"] - 2, case.toy.nodes[-1]["size"] + 1, True, "3", None, 2.0):
        change(folder, "graph.json", lambda g, wrong=wrong: g.update(classes=wrong))
        with pytest.raises(InvalidCertificate, match="classes"):
            only(folder)


def test_every_logit_but_the_label_is_claimed(tmp_path: Path) -> None:
    """One logit more than classes: a zero that stands for a final ReLU."""
    case = random_case(4, margin=True)
    folder = written(case, tmp_path)
    extra = case.toy.nodes[-1]["size"] - 1
    change(folder, "graph.json", lambda g: g.update(classes=extra))
    if case.label < extra:
        assert only(folder).accepted
        change(folder, "images/0.npz", lambda a: a.pop(f"{extra}.stop"))
        assert only(folder).reason == f"image 0: images/0.npz: {extra}.stop is missing"


@pytest.mark.parametrize(
    ("text", "exact"),
    [("36/255", Fraction(36, 255)), ("0.1", Fraction(1, 10)), ("1E-3", Fraction(1, 1000)), ("3/010", Fraction(3, 10))],
)
def test_eps_is_exact_and_rounded_up(text: str, exact: Fraction, tmp_path: Path) -> None:
    folder = written(random_case(2, margin=True), tmp_path)
    change(folder, "certificate.json", lambda c: c.update(eps=text))
    eps = open_certificate(folder).eps
    assert exact <= Fraction(eps) < exact + Fraction(1, 2**52)


@pytest.mark.parametrize("eps", ["-1/4", "nan", "inf", "1/0", "1e999999999", "0x10", "", "1" * 5000, " 1", "1_0"])
def test_eps_is_a_plain_number(eps: str, tmp_path: Path) -> None:
    folder = written(random_case(2, margin=True), tmp_path)
    change(folder, "certificate.json", lambda c: c.update(eps=eps))
    with pytest.raises(InvalidCertificate, match="eps"):
        only(folder)
