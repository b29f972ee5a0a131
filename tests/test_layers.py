"""Modules import downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("errors", "region"),
    ("spectral", "ir", "question"),
    ("registry",),
    ("ops",),
    ("passes",),
    ("frontend", "program"),
    ("bounds", "sizing"),
    ("certify", "data"),
    ("report",),
    ("job", "run_directory"),
    ("api",),
    ("cli",),
)
"""From the bottom up; those of one layer do not know each other. The package itself imports its public names lazily."""


def test_modules_import_downwards_only() -> None:
    rank = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in sorted((ROOT / "llcert").rglob("*.py")):
        importer = path.relative_to(ROOT / "llcert").with_suffix("").parts[0]
        if importer in ("__init__", "__main__"):
            continue
        for imported in _imported(path):
            assert imported == importer or rank[imported] < rank[importer], f"{path} imports llcert.{imported}"


def test_certification_does_not_know_training() -> None:
    for path in sorted((ROOT / "llcert").rglob("*.py")):
        if "cli" not in path.parts:
            assert "llcert_train" not in path.read_text(), path


def _imported(path: Path) -> set[str]:
    """The parts of llcert that a file imports from, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name.split(".")[1] for name in names if name.startswith("llcert."))
    return found
