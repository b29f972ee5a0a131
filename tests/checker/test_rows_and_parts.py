"""Rules 11 and 12 together: sound boxes from rows and parts of the ball are accepted, false ones are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeds import sizes

from llcert.checker import intermediate
from llcert.checker.files import InvalidCertificate

from .cases import Case, only, rehash, worst_margin
from .refined import (
    Held,
    case_of,
    holds,
    known,
    points,
    written_refined,
)
from .singles import all_in_float32

SEEDS = range(12)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_proved_is_accepted_and_what_is_accepted_is_true(seed: int, tmp_path: Path) -> None:
    single = seed % 3 == 0
    case, rng = case_of(seed), np.random.default_rng(seed)
    result = only(written_refined(case, tmp_path, single=single))
    assert result.accepted, result.reason
    assert result.margin == pytest.approx(min(case.found.margins.values()), rel=1e-6, abs=1e-7)
    assert worst_margin(case.toy, case.x, case.label, float(case.eps), rng) >= result.margin
    found = known(case, case.found.arrays, single=single)
    assert holds(case, found, rng)
    if single:
        assert holds(case, found, rng, single=True)
        y = all_in_float32(case.toy, points(case, rng).astype(np.float32), rng)[-1].astype(float)
        others = [j for j in range(y.shape[1]) if j != case.label]
        assert (y[:, [case.label]] - y[:, others]).min() >= result.margin


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_and_parts_taken_in_small_portions_give_the_same(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(seed)
    folder = written_refined(case, tmp_path)
    whole = only(folder)
    monkeypatch.setattr(intermediate, "AT_ONCE", 1)
    assert only(folder).margin == pytest.approx(whole.margin, abs=1e-12)


def corrupted(kind: str, rng: np.random.Generator, case: Case) -> Held:
    """One change to the arrays of an image."""
    held = {n: np.copy(v) for n, v in case.found.arrays.items()}
    ends = {"slopes": ("plus", "minus"), "lam": (".lower", ".upper")}.get(kind, (kind,))
    names = [n for n in held if n.endswith(ends) and (kind != "lam" or ".lam." in n)]
    names = [n for n in names if not n.startswith("first.")] if kind != "first" else names
    if kind == "first":
        names = [n for n in held if n.startswith("first.")]
    if kind == "bit":
        names = [n for n in held if ".rows" in n or ".slopes." in n or ".tree" in n or n.startswith("first.")]
    if not names:
        return held
    name = names[rng.integers(len(names))]
    v = np.atleast_1d(held[name])
    i = int(rng.integers(v.size))
    match kind:
        case "slopes":
            v = v + rng.normal(size=v.shape) * 0.2
        case "lam":
            v = v * 3
        case ".rows":
            v = np.unique(rng.integers(0, held[f"{name.removesuffix('.rows')}.lower"].size, v.size))
        case ".rows.stop" | ".stop":
            v = np.array([rng.choice(case.toy.cuts)])
        case ".tree":
            v[i] = rng.integers(-1, len(case.toy.nodes))
        case ".step":
            v[i] = 1 - v[i]
        case ".entry":
            v[i] = rng.integers(0, 8)
        case ".at":
            v[i] = rng.normal()
        case "first":
            v[i] = v[i] + rng.normal() * 0.1
        case "bit":
            bits = v.view(np.uint64)
            bits[i] ^= np.uint64(1) << np.uint64(rng.integers(64))
    return held | {name: v}


KINDS = ("bit", "slopes", "lam", ".rows", ".rows.stop", ".stop", ".tree", ".step", ".entry", ".at", "first")


@pytest.mark.parametrize("tried", sizes(6, 40))
@pytest.mark.parametrize("kind", KINDS)
def test_no_corruption_is_accepted_with_a_false_claim(kind: str, tried: int, tmp_path: Path) -> None:
    for seed in range(tried):
        rng, case = np.random.default_rng(seed), case_of(seed)
        written_refined(case, tmp_path)
        arrays = corrupted(kind, rng, case)
        np.savez(tmp_path / "images" / "0.npz", **arrays)
        result = only(rehash(tmp_path))
        assert result.accepted or (result.reason and "\n" not in result.reason)
        if result.accepted:
            assert worst_margin(case.toy, case.x, case.label, float(case.eps), rng, 400) >= result.margin
            assert holds(case, known(case, arrays), rng)


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, "3", None])
def test_formats_1_to_3_are_read(version: Any, tmp_path: Path) -> None:
    folder = written_refined(case_of(0), tmp_path)
    content = json.loads((folder / "certificate.json").read_text()) | {"format": version}
    (folder / "certificate.json").write_text(json.dumps(content))
    if version in (1, 2, 3):
        assert only(folder).accepted
    else:
        with pytest.raises(InvalidCertificate, match="not of format 1 or 2 or 3"):
            only(folder)
