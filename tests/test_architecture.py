"""Which file may import which: downwards only, never in a circle, and each foreign package by one door.

Imports inside functions and for types alone count as all others do.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    ("errors", "numerics"),
    ("checker", "domain", "machine", "options"),
    ("spectral",),
    ("ir",),
    ("ops",),
    ("passes",),
    ("program",),
    ("bounds",),
    ("frontend",),
    ("certification",),
    ("data",),
    ("reporting",),
    ("certificate_writer",),
    ("runs",),
    ("api",),
    ("cli",),
)
"""The parts of llcert, lowest first. A part imports from lower ones alone, never from its own layer."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OPEN = ("__init__", "__main__")
"""The front doors of the package: they may name everything."""
OWNERS = {
    "onnx": {"frontend"},
    "onnxruntime": {"frontend"},
    "onnx2torch": {"frontend"},
    "onnxscript": set(),
    "typer": {"cli"},
    "rich": {"cli", "reporting"},
    "PIL": {"data"},
    "pyarrow": {"data"},
    "matplotlib": set(),
    "llcert_train": {"cli"},
    "scipy": {"certificate_writer", "checker", "spectral"},
}
FILES = sorted((ROOT / "llcert").rglob("*.py"))
TRAINING = sorted((ROOT / "llcert_train").rglob("*.py"))


def _part(path: Path) -> str:
    """The part of llcert that a file belongs to: `bounds` for llcert/bounds/margin.py."""
    return path.relative_to(ROOT / "llcert").with_suffix("").parts[0]


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, at its top, inside a function or for its types alone, in full."""
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


def _module(path: Path) -> str:
    """The name a file is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_graph(files: Iterable[Path] = (*FILES, *TRAINING)) -> dict[str, set[str]]:
    """The modules that each module imports, of ours; a package stands for its `__init__.py`."""
    known = {_module(path): path for path in files}
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        found = (name if name in known else name.rpartition(".")[0] for name in _imports(_tree(path)))
        graph[module] = {name for name in found if name in known}
    return graph


def test_every_part_has_a_layer() -> None:
    assert {_part(p) for p in FILES} - set(OPEN) == set(LEVEL)


def test_no_two_files_import_each_other() -> None:
    try:
        list(TopologicalSorter(file_graph()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


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
        assert LEVEL[target] < LEVEL[part], f"{_name(path)}: {part} must not import {target}"


def test_the_checker_needs_itself_numpy_and_scipy() -> None:
    for path in FILES:
        if _part(path) == "checker":
            foreign = {n for n in _imports(_tree(path)) if n.split(".")[0] not in sys.stdlib_module_names}
            assert all(n.startswith(("llcert.checker.", "numpy", "scipy")) for n in foreign), _name(path)


def test_the_numerical_core_knows_no_file_format() -> None:
    for path in FILES:
        if _part(path) in ("numerics", "domain", "spectral", "ir", "program", "bounds", "certification"):
            used = {n for n in _imports(_tree(path)) if n.startswith("llcert.frontend.")}
            assert all(n.startswith("llcert.frontend.comparison.") for n in used), _name(path)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_foreign_packages_have_one_owner(path: Path) -> None:
    for name in _imports(_tree(path)):
        package = name.split(".")[0]
        assert package not in OWNERS or _part(path) in OWNERS[package], f"{_name(path)} must not import {package}"


def test_every_owner_uses_what_it_owns() -> None:
    used = {(name.split(".")[0], _part(p)) for p in FILES for name in _imports(_tree(p))}
    unused = {(package, part) for package, parts in OWNERS.items() for part in parts} - used
    assert not unused, f"nobody there imports it: {unused}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_command_line_prints(path: Path) -> None:
    if _part(path) == "cli":
        return
    calls = [n.func for n in ast.walk(_tree(path)) if isinstance(n, ast.Call)]
    assert not any(isinstance(f, ast.Name) and f.id == "print" for f in calls), f"{_name(path)} prints"


def test_training_imports_no_command_line() -> None:
    for path in TRAINING:
        assert not any(n.startswith("llcert.cli") for n in _imports(_tree(path))), _name(path)
