"""What a newcomer sees first: quick, complete and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from llcert.cli.app import app

from .conftest import Run

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_help_names_every_command_and_shows_examples(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for words in (*COMMANDS, "Examples", "llcert certify models/digits_relu_theta.onnx", "Exit codes"):
        assert words in result.out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert {"train": "ARCH", "plot": "RUN", "check": "DIR"}.get(name, "MODEL") in result.out


def test_without_arguments_help_is_shown(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Usage" in result.out
    assert result.err == ""


@pytest.mark.parametrize(("package", "command"), [("scipy", "certify"), ("torch", "certify"), ("scipy", "check")])
def test_a_missing_package_is_one_line(package: str, command: str) -> None:
    script = (
        "import sys; package = sys.argv.pop(1)\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == package: raise ModuleNotFoundError(f'no {name}', name=package)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from llcert.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", script, package, command, "models/digits_relu_theta.onnx"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: the package {package} is not installed, and this needs it\n"


@pytest.mark.parametrize(("arguments", "words"), [(["certify"], "MODEL"), (["dance"], "dance"), (["--loud"], "--loud")])
def test_misuse_is_one_line(run: Run, arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert words in result.complaint


def test_version(run: Run) -> None:
    assert re.fullmatch(r"llcert \d+\.\d+\.\d+\S*\n", run("--version").out)


@pytest.mark.parametrize("arguments", [["--help"], ["certify", "--help"], ["--version"]])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    script = (
        "import sys; from llcert.cli import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'onnx', 'numpy', 'onnxruntime'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"


def test_every_option_is_documented_and_every_documented_option_exists() -> None:
    known = {"--help", "--version"}
    for command in COMMANDS.values():
        for parameter in command.params:
            known |= {name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")}
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCUMENT.read_text(encoding="utf-8")))
    assert known == documented - {"--nproc-per-node"}, "the option of torchrun aside"


def test_every_key_of_the_summary_and_of_a_sample_is_documented(run: Run, model: Path, tmp_path: Path) -> None:
    assert run("certify", model, "--samples", 2, "--out", tmp_path / "out").code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    sample = json.loads((tmp_path / "out" / "samples.jsonl").read_text().splitlines()[0])
    parts = (summary, sample, *(summary[name][0] for name in ("stages", "layers", "outcomes")))
    documented = DOCUMENT.read_text(encoding="utf-8")
    assert [key for part in parts for key in part if f"`{key}`" not in documented] == []
