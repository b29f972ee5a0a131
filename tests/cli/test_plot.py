"""`llcert plot` from its arguments to its files, by a command line of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from llcert.cli.commands.plot import plot
from llcert.errors import InvalidInput

FILES = [f"figure{n}.{kind}" for n in (2, 3, 4) for kind in ("png", "svg")]
LAYER = {"name": "conv", "operator": "Conv", "varying": 0.5, "iterations": [[1, 5, 10]]}


def command(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(plot)
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=True)


def run_folder(path: Path, **held_out: Any) -> Path:
    path.mkdir(parents=True)
    values = {"clean_loss": 0.5, "layers": [LAYER, {**LAYER, "name": "logits"}], **held_out}
    (path / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "held_out": values}) + "\n")
    return path


@pytest.fixture
def drawing() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.mark.usefixtures("drawing")
def test_pictures_lie_in_the_first_run_and_are_listed(tmp_path: Path) -> None:
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b")
    result = command(first, second)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(first / name) for name in FILES]
    assert result.stderr == ""
    assert all((first / name).stat().st_size > 1000 for name in FILES)
    assert [p.name for p in second.iterdir()] == ["metrics.jsonl"]


@pytest.mark.usefixtures("drawing")
def test_another_folder_and_what_is_left_out(tmp_path: Path) -> None:
    result = command(run_folder(tmp_path / "a", layers=None), "--out", tmp_path / "new" / "out", "--labels", "mine")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(tmp_path / "new" / "out" / name) for name in FILES[:2]]
    assert result.stderr.splitlines() == [
        "note: figure3 left out: no run has shares of varying neurons",
        "note: figure4 left out: no run has power iterations",
    ]


def test_labels_must_match_the_runs(tmp_path: Path) -> None:
    result = command(run_folder(tmp_path / "a"), "--labels", "x, y")
    assert isinstance(result.exception, InvalidInput)
    assert str(result.exception) == "labels: 2 for 1 runs; give one a run, in their order"


def test_no_run_is_misuse() -> None:
    result = command()
    assert result.exit_code == 2
    assert "RUN" in result.stderr


def test_a_folder_without_measures_is_refused(tmp_path: Path) -> None:
    result = command(tmp_path)
    assert isinstance(result.exception, InvalidInput)
    assert "metrics.jsonl: No such file or directory" in str(result.exception)
