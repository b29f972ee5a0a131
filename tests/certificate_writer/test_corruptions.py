"""A seeded share of benchmarks/corruptions.py: nothing that a proof needs can be taken away unnoticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from llcert.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corruptions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corruptions", ROOT / "benchmarks" / "corruptions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "times", "asked"),
    [
        ("digits_maxmin_clipped", 6, ()),
        ("digits_maxmin_clipped", 2, ("--top", "3")),
        ("digits_maxmin_clipped", 2, ("--target", "3")),
        ("digits_relu", 2, ("--stages", "crown-ball-intermediate", "--eps", "0.1")),
    ],
)
def test_every_corruption_is_rejected(
    name: str, times: int, asked: tuple[str, ...], corruptions: ModuleType, tmp_path: Path
) -> None:
    model, proof = ROOT / "models" / f"{name}.onnx", tmp_path / "proof"
    rows, samples = "--stages" in asked, "8" if "--stages" in asked else "24"
    if asked and not rows:
        (tmp_path / "radii.txt").write_text("\n".join(f"{10 + i}/255" for i in range(24)))
        asked += ("--eps-file", str(tmp_path / "radii.txt"))
    assert main(["certify", str(model), "--samples", samples, "--proof", str(proof), "--no-self-check", *asked]) == 0
    kinds = [kind for kind in corruptions.KINDS if kind != "part" and (rows or kind != "rows")]
    count = times * len(kinds)
    rejected, accepted = corruptions.campaign(proof, count, seed=1)
    assert accepted == []
    assert sum(rejected.values()) == count
    assert all(rejected[kind, hashed] for kind in kinds for hashed in (True, False))
