"""`--clip-input` and `--range`: from options to reports, files and certificates, which all state the weaker claim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import Run


def test_every_output_states_the_weaker_claim(run: Run, model: Path, tmp_path: Path) -> None:
    out, tsv, proof = tmp_path / "out", tmp_path / "a.tsv", tmp_path / "proof"
    asked = ("certify", model, "--samples", "20", "--eps", "0.2", "--clip-input", "--out", out, "--tsv", tsv)
    result = run(*asked, "--proof", proof)
    assert result.code == 0
    printed = " ".join(result.out.split())
    assert "claim the label stays first, as long as all pixels stay in [0, 1]" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["claim"] == {"top": 1, "within": ["0", "1"]}
    assert summary["claim_words"].endswith("as long as all pixels stay in [0, 1]")
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {tuple(s["within"]) for s in samples} == {(0.0, 1.0)}
    head, *rows = tsv.read_text().splitlines()
    assert head == "idx\tlabel\tpredict\tradius\tcorrect\ttime\twithin"
    assert {row.split("\t")[6] for row in rows} == {"0,1"}
    certified = [s["index"] for s in samples if s["verdict"] == "certified"]
    assert len(certified) > 3
    content = json.loads((proof / "certificate.json").read_text())
    assert content["claim"] == {"top": 1, "within": ["0", "1"]}
    assert [entry["index"] for entry in content["images"]] == certified
    checked = run("check", proof)
    assert (checked.code, checked.err) == (0, "")
    claim = "the label stays first, eps 0.2, semantics float32, for pixels from 0 to 1 only"
    assert checked.out == f"accepted {len(certified)} of {len(certified)}: {claim}\n"


def test_a_run_goes_on_with_the_range_it_was_asked(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("certify", model, "--samples", "4", "--eps", "0.2", "--out", out)
    assert run(*asked, "--clip-input", "--range=-0.5,1").code == 0
    assert run("certify", model, "--out", out, "--resume").code == 0
    for other in (("--range", "0,1"), ("--clip-input", "--range=-1/2,1")):
        refused = run("certify", model, "--out", out, "--resume", *other)
        assert refused.code == 2
        assert "claim is" in refused.complaint


def test_data_outside_the_range_are_refused(run: Run, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "a.npz"
    np.savez(data, x=np.full((3, 1, 8, 8), 1.25, np.float32), y=np.zeros(3, int))
    asked = ("certify", model, "--data", data, "--eps", "0.1", "--clip-input")
    refused = run(*asked)
    assert refused.code == 2
    assert "run from 1.25 to 1.25, outside [0, 1]; give --range" in refused.complaint
    assert run(*asked, "--range", "0,1.25").code == 0
    assert run("attack", *asked[1:], "--range", "0,1.25").code == 0
    assert run("attack", *asked[1:]).code == 2


@pytest.mark.parametrize("text", ["1", "1,0", "x,y"])
def test_no_range(run: Run, model: Path, text: str) -> None:
    refused = run("certify", model, "--range", text)
    assert refused.code == 2
    assert "give the lowest and the highest value of a pixel" in refused.complaint
