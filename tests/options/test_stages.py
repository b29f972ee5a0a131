"""Stages that were called otherwise: users may still say so, earlier runs are read, files say the names of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llcert
from llcert.certification import Settings
from llcert.cli import main
from llcert.errors import InvalidInput
from llcert.options import STAGES, with_stage_names
from llcert.options.stages import FORMER

MODEL = Path(__file__).parents[2] / "models/digits_relu.onnx"
ASKED = ("certify", str(MODEL), "--data", "digits", "--eps", "0.1", "--samples", "4", "--batch-size", "2")


def test_former_names_stand_for_stages_of_today() -> None:
    assert set(FORMER.values()) <= set(STAGES)
    assert not FORMER.keys() & set(STAGES)
    assert Settings(0.1, stages=("boxes", "dual")) == Settings(0.1, stages=("crown-ball", "crown-ball-intermediate"))
    with pytest.raises(InvalidInput, match="without repeats"):
        Settings(0.1, stages=("dual", "crown-ball"))


def test_the_python_api_takes_former_names() -> None:
    report = llcert.certify(llcert.load(MODEL), "digits", 0.1, samples="2", stages="global,dual")
    assert [stage.name for stage in report.stages] == ["clean", "global", "crown-ball"]


def test_an_earlier_run_goes_on(tmp_path: Path) -> None:
    """A run of an earlier version, cut off behind its first batch, continued by the words of then."""
    out = tmp_path / "run"
    assert main([*ASKED, "--stages", "local,dual,boxes", "--out", str(out)]) == 0
    whole = (out / "samples.jsonl").read_text()
    assert "crown-ball" in whole
    assert [s["name"] for s in json.loads((out / "summary.json").read_text())["stages"]][2:] == list(FORMER.values())
    for name in ("run.json", "samples.jsonl", "batches.jsonl"):
        text = (out / name).read_text()
        for former, today in reversed(FORMER.items()):
            text = text.replace(f'"{today}"', f'"{former}"')
        (out / name).write_text(text)
    first = (out / "batches.jsonl").read_text().splitlines(keepends=True)[0]
    (out / "batches.jsonl").write_text(first.replace(str(json.loads(first)["end"]), str(_end(out, first))))
    assert main([*ASKED, "--stages", "local,dual,boxes", "--out", str(out), "--resume"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [s["name"] for s in summary["stages"]] == ["clean", "local", *FORMER.values()]
    assert not {o["stage"] for o in summary["outcomes"]} & FORMER.keys()
    ours = [json.loads(line)["verdict"] for line in (out / "samples.jsonl").read_text().splitlines()]
    assert ours == [json.loads(line)["verdict"] for line in whole.splitlines()]


def _end(out: Path, first: str) -> int:
    """Where the first batch of two images ends, by names of another length."""
    lines = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    return sum(map(len, lines[:2]))


def test_what_training_noted_is_read_by_todays_names() -> None:
    assert with_stage_names({"stages": ["global", "boxes"], "seed": 1}) == {
        "stages": ["global", "crown-ball-intermediate"],
        "seed": 1,
    }
    assert with_stage_names({"seed": 1}) == {"seed": 1}
