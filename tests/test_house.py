"""Measures of the code: sizes of files and functions, and how much of it one certification passes through.

Arguments (at most 8) and cyclomatic complexity (at most 15) are ruff's to check: pyproject.toml says so.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from llcert.cli import main

ROOT = Path(__file__).parents[1]
FILE, TEST_FILE, FUNCTION = 350, 500, 40
"""Lines at most."""

FILES = {
    "llcert_train/trainer.py": 418,
}
"""Files that are longer, and how long they may be: the training loop, which reads from top to bottom."""

FUNCTIONS: dict[str, int] = {}
"""Functions that are still longer, likewise."""

DECLARATIONS = {"llcert/reporting/report.py:to_json": 60}
"""A JSON object, a line a key: as long as there are keys."""

CONCEPTS, CORE, FRAMES = 130, 88, 20
"""Of one certification: classes whose methods run, in all packages and in those that compute, and frames from the
command line to a proved norm. These numbers go down, too; docs/decisions/measures.md says how far."""

COMPUTATION = ("bounds", "certification", "domain", "ir", "numerics", "program", "spectral")


def _lines() -> Iterator[tuple[str, int, int]]:
    """Every file with its lines and how many it may have."""
    for folder, most in (("llcert", FILE), ("llcert_train", FILE), ("tests", TEST_FILE)):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), len(path.read_text(encoding="utf-8").splitlines()), most


def _functions() -> Iterator[tuple[str, int, int]]:
    """Every function with its lines, signature included, and how many it may have."""
    for name, _, _ in _lines():
        if name.startswith("tests/"):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                yield f"{name}:{node.name}", node.end_lineno - node.lineno + 1, FUNCTION


@pytest.mark.parametrize(
    ("measured", "known"),
    [(_lines, FILES), (_functions, FUNCTIONS | DECLARATIONS)],
    ids=["files", "functions"],
)
def test_lengths(measured: Any, known: dict[str, int]) -> None:
    long = {name: count for name, count, most in measured() if count > most}
    grown = {name: count for name, count in long.items() if count > known.get(name, 0)}
    assert not grown, f"longer than they may be: {grown}"
    assert not known.keys() - long.keys(), f"short enough by now, take them out: {known.keys() - long.keys()}"


@dataclass
class _Path:
    """What one run passes through. classes: of ours, those whose methods run, as module and name. frames: of ours, at
    the deepest call of the solver that proves norms."""

    classes: set[tuple[str, str]] = field(default_factory=set)
    frames: int = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """A profile function (`sys.setprofile`)."""
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        if event != "call" or not module.startswith("llcert."):
            return
        owner = name.split(".<locals>")[0].rpartition(".")[0]
        if isinstance(frame.f_globals.get(owner), type):
            self.classes.add((module, owner))
        if (module, name) == ("llcert.spectral.proof.verified_cholesky", "VerifiedCholesky.__call__"):
            self.frames = max(self.frames, sum(n.startswith("llcert.") for n in _stack(frame)))


def _stack(frame: FrameType | None) -> Iterator[str]:
    """The modules of a frame and of its callers."""
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back


def test_a_certification_passes_through_few_classes_and_frames(tmp_path: Path) -> None:
    model, path = ROOT / "models/digits_residual_bn.onnx", _Path()
    words = ["certify", str(model), "--data", "digits", "--eps", "0.02", "--samples", "8", "--out", str(tmp_path / "o")]
    before = sys.getprofile()
    sys.setprofile(path)
    try:
        code = main(words)
    finally:
        sys.setprofile(before)
    assert code == 0
    parts = Counter(module.split(".")[1] for module, _ in path.classes)
    assert 20 < len(path.classes) <= CONCEPTS, f"classes on the path of a certification: {parts}"
    assert 10 < sum(parts[name] for name in COMPUTATION) <= CORE, f"of the computation: {parts}"
    assert 5 < path.frames <= FRAMES
