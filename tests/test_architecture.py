"""Which module may import which: downwards only, and the outside world by one door each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("batch_size", "errors", "gradients", "layout", "region", "relaxation", "rounding", "spectral"),
    ("ir", "check", "processes"),
    ("registry", "memory"),
    ("ops",),
    ("passes",),
    ("frontend",),
    ("program",),
    ("bounds", "probing"),
    ("comparison",),
    ("certify",),
    ("data", "sizing", "question", "report"),
    ("run_directory", "eps_file"),
    ("evidence", "ahead", "team"),
    ("job", "dealing"),
    ("api",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SIDEWAYS = {
    ("spectral", "region"),
    ("spectral", "rounding"),
    ("spectral", "errors"),
    ("region", "errors"),
    ("spectral", "layout"),
    ("region", "gradients"),
    ("region", "layout"),
    ("region", "rounding"),
    ("relaxation", "layout"),
    ("relaxation", "rounding"),
    ("report", "question"),
}
OPEN = ("__init__", "__main__")
"""The front doors of the package: they may name everything."""
OWNERS = {
    "onnx": {"frontend"},
    "onnxruntime": {"frontend"},
    "onnx2torch": {"frontend"},
    "onnxscript": set(),
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "PIL": {"data"},
    "pyarrow": {"data"},
    "matplotlib": set(),
    "llcert_train": {"cli"},
    "scipy": {"check", "evidence", "spectral"},
}
FILES = sorted((ROOT / "llcert").rglob("*.py"))


def _part(path: Path) -> str:
    """The part of llcert that a file belongs to: `bounds` for llcert/bounds/margin.py."""
    return path.relative_to(ROOT / "llcert").with_suffix("").parts[0]


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, at its top or inside a function, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer they reach"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_has_a_layer() -> None:
    parts = {_part(p) for p in FILES} - set(OPEN)
    assert parts <= set(LEVEL), f"not in the order of layers: {parts - set(LEVEL)}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_downwards(path: Path) -> None:
    part = _part(path)
    if part in OPEN:
        return
    for name in _imports(_tree(path)):
        package, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if package != "llcert" or target == part or target not in LEVEL:
            continue
        allowed = LEVEL[target] < LEVEL[part] or (part, target) in SIDEWAYS
        assert allowed, f"{_name(path)}: {part} must not import {target}"


def test_the_checker_shares_no_code() -> None:
    for path in FILES:
        if _part(path) == "check":
            ours = {n for n in _imports(_tree(path)) if n.split(".")[0] in ("llcert", "llcert_train", "torch", "onnx")}
            assert all(n.startswith(("llcert.check", "llcert.errors.")) for n in ours), _name(path)


def test_the_numerical_core_knows_no_file_format() -> None:
    for path in FILES:
        if _part(path) in ("program", "bounds", "certify", "spectral", "region", "ir"):
            assert not any(n.startswith("llcert.frontend") for n in _imports(_tree(path))), _name(path)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_foreign_packages_have_one_owner(path: Path) -> None:
    for name in _imports(_tree(path)):
        package = name.split(".")[0]
        assert package not in OWNERS or _part(path) in OWNERS[package], f"{_name(path)} must not import {package}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_command_line_prints(path: Path) -> None:
    if _part(path) == "cli":
        return
    calls = [n.func for n in ast.walk(_tree(path)) if isinstance(n, ast.Call)]
    assert not any(isinstance(f, ast.Name) and f.id == "print" for f in calls), f"{_name(path)} prints"


def test_training_imports_no_command_line() -> None:
    for path in sorted((ROOT / "llcert_train").rglob("*.py")):
        assert not any(n.startswith("llcert.cli") for n in _imports(_tree(path))), _name(path)
