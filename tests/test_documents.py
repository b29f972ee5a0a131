"""The documents run: their code, their tables, their links, and what they say about names in the code."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import llcert.ops  # registers the importers
from llcert.ops import registry
from llcert.options.certification import DECLARED
from llcert.options.declaration import declaration_of
from llcert_train.settings import Recipe, kind_of, shown_fields

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_METADATA = {f"llcert.{key}" for key in ("data", "eps", "mean", "std", "layout")}
_FENCE = re.compile(r"^```(\S*)[ ]?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[tuple[str, str]]:
    """The code blocks of a language: what stands behind the language, and the code."""
    return [(info, code) for kind, info, code in _FENCE.findall(path.read_text()) if kind == language]


@pytest.fixture
def clean_registries() -> Iterator[None]:
    """What a test registers is forgotten."""
    tables: tuple[dict, ...] = (registry.onnx_importers, registry.torch_importers, registry.exporters)  # type: ignore[type-arg]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def _module(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("clean_registries")
@pytest.mark.parametrize("name", ["softplus", "cumsum"])
def test_the_tutorial_adds_an_operator(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = dict(blocks(ROOT / "docs/adding_an_operator.md", "python"))
    operator, test = (code[f"file={path}"] for path in (f"llcert/ops/{name}.py", f"tests/ops/test_{name}.py"))
    (tmp_path / "operator.py").write_text(operator)
    (tmp_path / "test.py").write_text(test)
    _module(f"llcert.ops.{name}", tmp_path / "operator.py", monkeypatch)
    module = _module(f"test_{name}", tmp_path / "test.py", monkeypatch)
    tests = [f for name, f in vars(module).items() if name.startswith("test_")]
    assert len(tests) == test.count("\ndef test_")
    for number, function in enumerate(tests):
        folder = tmp_path / str(number)
        folder.mkdir()
        function(**({"tmp_path": folder} if inspect.signature(function).parameters else {}))


def test_the_tutorial_leaves_nothing_behind() -> None:
    assert not {"Softplus", "CumSum"} & set(registry.onnx_importers)


@pytest.mark.parametrize("document", ["README.md", "docs/data.md"])
def test_python_examples(document: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / document, "python")
    assert found
    names: dict[str, object] = {}
    for _, code in found:
        exec(compile(code, document, "exec"), names)


def test_the_pasted_report_is_about_the_network_in_the_repository() -> None:
    ((_, report),) = blocks(ROOT / "README.md", "text")
    test = llcert.load_dataset("digits")
    (batch,) = test.batches(range(len(test)), len(test))
    wrong = int((llcert.load(ROOT / "models/digits_relu_theta.onnx")(batch.images).argmax(1) != batch.labels).sum())
    assert re.search(rf"misclassified +{wrong} ", report), "run the README's first command and paste its report"


def operator_table() -> str:
    """The table of docs/models.md: which file reads which ONNX and aten operators."""
    onnx, torch = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for table, readers in ((onnx, registry.onnx_importers), (torch, registry.torch_importers)):
        for kind, reader in readers.items():
            table[reader.__module__.rpartition(".")[2]].append(kind)
    lines = ["| file | ONNX | torch (aten) |", "|---|---|---|"]
    for file in sorted({*onnx, *torch}):
        # private names are what newer torch versions call the public ones
        public = [kind for kind in torch[file] if not kind.startswith("_")]
        names = (", ".join(sorted(kinds)) for kinds in (onnx[file], public))
        lines.append(f"| [{file}](../llcert/ops/{file}.py) | {' | '.join(names)} |")
    return "\n".join(lines)


def test_the_table_of_operators_is_that_of_the_code() -> None:
    assert operator_table() in (ROOT / "docs/models.md").read_text(), f"put into docs/models.md:\n{operator_table()}"


def recipe_table() -> str:
    """The table of docs/cli.md: every field of a recipe."""
    lines, own = ["| option | meaning | default | in `finetune` |", "|---|---|---|---|"], shown_fields("finetune")
    for field in dataclasses.fields(Recipe):
        kind, default = kind_of(field), Recipe().to_json()[field.name]
        option = field.name.replace("_", "-")
        given = f"`--{option}`, `--no-{option}`" if kind is bool else f"`--{option}`"
        shown = "" if default in (None, "") else f"`{str(default).lower() if kind is bool else default}`"
        said = f"`{own[field.name]}`" if field.name in own else ""
        name = given if field.name != "arch" else "`ARCH`"
        lines.append(f"| {name} | {declaration_of(field).help} | {shown} | {said} |")
    return "\n".join(lines)


def test_the_table_of_recipes_is_that_of_the_code() -> None:
    assert recipe_table() in (ROOT / "docs/cli.md").read_text(), f"put into docs/cli.md:\n{recipe_table()}"


def test_every_decision_is_listed_by_its_title() -> None:
    folder = ROOT / "docs/decisions"
    records = {path: path.read_text().splitlines()[0].removeprefix("# ") for path in folder.glob("*.md")}
    listed = (folder / "README.md").read_text()
    lost = [p.name for p, title in records.items() if p.name != "README.md" and f"[{title}]({p.name})" not in listed]
    assert not lost


@pytest.mark.parametrize("name", DECLARED)
def test_options_of_a_certification_are_documented_with_their_defaults(name: str) -> None:
    """A row `| `--flag METAVAR` | meaning | default |` of docs/cli.md."""
    d = declaration_of(DECLARED[name])
    flag = d.flag or f"--{name.replace('_', '-')}"
    shown = flag if d.metavar is None else rf"{flag} {d.metavar}".replace("|", r"\|")
    row = re.search(rf"^\| `{re.escape(shown)}` \|.*\|(.*)\|$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert row is not None, shown
    if d.default is not None:
        assert _read(row[1].strip(" `"), type(d.default)) == d.default


def _read(text: str, kind: type) -> object:
    """The default of an option, as a document writes it."""
    if kind is bool:
        return {"on": True, "off": False}[text]
    return tuple(text.split(",")) if kind is tuple else kind(text)


def test_ci_runs_the_command_that_the_readme_prints() -> None:
    (_, commands), *_ = blocks(ROOT / "README.md", "sh")
    _, test = [line for line in commands.splitlines() if line and not line.startswith("#")]
    assert f"({test})" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = _FENCE.sub("", document.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and "://" not in path:
            assert (document.parent / path).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_code_exist(document: Path) -> None:
    """Dotted names such as `llcert.domain.region.Region`, and paths such as `llcert/ops/conv.py`, in backticks."""
    text = _FENCE.sub("", document.read_text())
    for name in re.findall(r"`(llcert(?:_train)?(?:\.\w+)+)(?:\(\))?`", text):
        if name not in _METADATA:
            _resolve(name)
    if document.name != "adding_an_operator.md":
        for path in re.findall(r"`((?:llcert|llcert_train|tests|docs|models)/[\w./]*)`", text):
            assert (ROOT / path).exists(), path


def _resolve(name: str) -> None:
    """Fails unless the dotted name stands for an object, or for a field of one."""
    parent, _, last = name.rpartition(".")
    owner = pkgutil.resolve_name(parent)
    if last not in getattr(owner, "__annotations__", {}):
        assert pkgutil.resolve_name(name) is not None, name


CODE = [path for folder in ("llcert", "llcert_train", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
_KINDS = "sections?|definitions?|propositions?|lemmas?"
_NAMED = re.compile(rf"docs/method\.md, ({_KINDS}) ((?:\d[\d.]*(?:, | and | to )?)+)", re.IGNORECASE)
"""What code says: `docs/method.md, section 7.3`, `docs/method.md, sections 3 to 5 and 12`."""


def test_code_names_parts_of_the_method_that_exist() -> None:
    text = (ROOT / "docs/method.md").read_text()
    parts = {("section", n) for n in re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE)}
    parts |= {(kind.lower(), n) for kind, n in re.findall(r"\*\*(Definition|Proposition|Lemma) (\d+(?:\.\d+)?)", text)}
    for path in CODE:
        code = " ".join(path.read_text().split())
        assert not re.search(r"[(]METHOD\b", code), f"{path.relative_to(ROOT)}: no such document"
        for kind, numbers in _NAMED.findall(code):
            for number in re.findall(r"\d+(?:\.\d+)?", numbers):
                part = (kind.lower().removesuffix("s"), number)
                assert part in parts, f"{path.relative_to(ROOT)}: docs/method.md has no {' '.join(part)}"


def test_the_picture_of_the_architecture_is_that_of_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    script = _module("architecture", ROOT / "docs/architecture.py", monkeypatch)
    assert script.picture() == script.PICTURE.read_text(encoding="utf-8"), "run python docs/architecture.py"


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{llcert.__version__}]" in (ROOT / "docs/changelog.md").read_text()


_WITHOUT = """
import sys
from importlib.machinery import PathFinder

ABSENT = ("onnx2torch", "onnxruntime", "torchvision", "onnxslim", "onnxscript")

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def _python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT + code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_everything_needed_works_without_the_heavy_packages() -> None:
    said = _python(
        "import llcert\n"
        "network = llcert.load('models/digits_relu_theta.onnx')\n"
        "report = llcert.certify(network, samples='4')\n"
        "print(len(report.samples), *network.notes)"
    )
    assert said.startswith("4 ")
    assert "not compared with onnxruntime" in said


def test_import_is_light_and_needs_no_metadata() -> None:
    said = _python(
        "import importlib.metadata\n"
        "def missing(name): raise importlib.metadata.PackageNotFoundError(name)\n"
        "importlib.metadata.version = missing\n"
        "from llcert.cli import main\n"
        "code = main(['--version'])\n"
        "print(code, 'torch' in sys.modules)\n"
        "from llcert.machine.versions import versions\n"
        "print(versions())"
    )
    assert said.splitlines()[:2] == [f"llcert {llcert.__version__}", "0 False"]
