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


@pytest.mark.parametrize(("times", "asked"), [(6, ()), (2, ("--top", "3")), (2, ("--target", "3"))])
def test_every_corruption_is_rejected(
    times: int, asked: tuple[str, ...], corruptions: ModuleType, tmp_path: Path
) -> None:
    model, proof = ROOT / "models" / "digits_maxmin_clipped.onnx", tmp_path / "proof"
    if asked:
        (tmp_path / "radii.txt").write_text("\n".join(f"{10 + i}/255" for i in range(24)))
        asked += ("--eps-file", str(tmp_path / "radii.txt"))
    assert main(["certify", str(model), "--samples", "24", "--proof", str(proof), "--no-self-check", *asked]) == 0
    count = times * len(corruptions.KINDS)
    rejected, accepted = corruptions.campaign(proof, count, seed=1)
    assert accepted == []
    assert sum(rejected.values()) == count
    assert all(rejected[kind, hashed] for kind in corruptions.KINDS for hashed in (True, False))
