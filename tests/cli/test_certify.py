"""`llcert certify` from arguments to exit code, files and text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llcert.certification import BatchResult, Contradiction
from llcert.errors import NumericalError
from llcert.runs.prepare import Certification

from .conftest import Run

VERDICTS = {"misclassified", "attacked", "certified", "undecided"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(summary: Path) -> dict[str, Any]:
    """A summary without the times in it."""
    content: dict[str, Any] = json.loads(summary.read_text())
    del content["seconds"]
    for stage in content["stages"]:
        del stage["seconds"]
    return content


def test_a_model_that_names_data_and_eps_needs_nothing_else(run: Run, model: Path) -> None:
    result = run("certify", model)
    assert result.code == 0
    assert "eps    0.25, an L2 radius in pixel units" in result.out
    assert "360 images" in result.out
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert result.err == ""


def test_json_to_stdout_is_json_alone(run: Run, model: Path) -> None:
    result = run("certify", model, "--samples", 24, "--eps", "1/4", "--json", "-")
    summary = json.loads(result.out)
    assert result.err == ""
    assert summary["samples"] == 24
    assert summary["eps"] == 0.25
    assert summary["norm"] == "L2"
    assert summary["certified_accuracy"] <= summary["attacked_accuracy"] <= summary["clean_accuracy"]
    stages = ["clean", "global", "local", "attack", "crown-ball", "crown-ball-intermediate", "targeted"]
    assert [stage["name"] for stage in summary["stages"]] == stages
    assert summary["attack"] == "targeted"
    assert summary["attacked_accuracy"] <= summary["attacked_accuracy_in_range"]
    assert summary["stages"][0]["seen"] == 24


def test_out_tsv_and_json_agree(run: Run, model: Path, tmp_path: Path) -> None:
    out, tsv, file = tmp_path / "out", tmp_path / "a.tsv", tmp_path / "a.json"
    result = run("certify", model, "--samples", "40:70", "--batch-size", 8, "--out", out, "--tsv", tsv, "--json", file)
    assert result.code == 0
    summary = json.loads(file.read_text())
    assert summary == json.loads((out / "summary.json").read_text())
    samples = lines(out / "samples.jsonl")
    assert [s["index"] for s in samples] == list(range(40, 70))
    assert {s["verdict"] for s in samples} <= VERDICTS
    assert sum(s["verdict"] == "certified" for s in samples) == summary["certified_accuracy"] * 30
    rows = [row.split("\t") for row in tsv.read_text().splitlines()]
    assert rows[0] == ["idx", "label", "predict", "radius", "correct", "time"]
    for sample, (index, label, predicted, radius, correct, _) in zip(samples, rows[1:], strict=True):
        assert (int(index), int(label), int(predicted)) == (sample["index"], sample["label"], sample["prediction"])
        assert float(radius) == (0.25 if sample["verdict"] == "certified" else 0.0)
        assert int(correct) == (sample["verdict"] != "misclassified")


def test_local_alone_sees_every_image(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("certify", model, "--samples", 60, "--stages", "local", "--out", out).code == 0
    summary = json.loads((out / "summary.json").read_text())
    samples = lines(out / "samples.jsonl")
    assert {k: summary["stages"][1][k] for k in ("name", "seen")} == {"name": "local", "seen": 60}
    assert any(s["verdict"] == "misclassified" for s in samples)
    assert all(s["local_lipschitz"] is not None for s in samples)
    assert summary["attacked_accuracy"] is None


def test_normalisation_in_front_keeps_eps_in_pixels(run: Run, model: Path) -> None:
    result = run("certify", model, "--samples", 4, "--mean", "0.5", "--std", "0.5", "--layout", "NCHW")
    assert "(pixel - 0.5) / 0.5" in result.out


def test_eps_zero_certifies_what_is_right(run: Run, model: Path) -> None:
    summary = json.loads(run("certify", model, "--samples", 40, "--eps", 0, "--json", "-").out)
    assert summary["certified_accuracy"] == summary["clean_accuracy"] > 0


@pytest.mark.parametrize(("bar", "code"), [(0, 0), (100, 1)])
def test_fail_under(run: Run, model: Path, bar: int, code: int) -> None:
    result = run("certify", model, "--samples", 60, "--eps", 0.5, "--fail-under", bar)
    assert result.code == code
    assert ("below --fail-under" in result.err) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eps", "-1"], "eps"),
        (["--eps", "nan"], "eps"),
        (["--eps", "inf"], "eps"),
        (["--eps", "big"], "36/255"),
        (["--data", "nothing"], "digits, mnist"),
        (["--split", "other"], "split"),
        (["--samples", "0"], "samples"),
        (["--samples", "1000000"], "360 images"),
        (["--samples", "5:2"], "samples"),
        (["--stages", ""], "global, local, attack"),
        (["--stages", "local,other"], "global, local, attack, crown-ball"),
        (["--stages", "local,local"], "repeats"),
        (["--semantics", "bfloat16"], "float32, real"),
        (["--delta", "2"], "delta"),
        (["--proof-seconds", "0"], "proof seconds"),
        (["--branch-seconds", "nan"], "branch seconds"),
        (["--assurance", "certain"], "estimate"),
        (["--device", "abacus"], "auto, cpu, cuda"),
        (["--dtype", "int8"], "float32"),
        (["--batch-size", "0"], "batch size"),
        (["--seed", "-3"], "seed"),
        (["--seed", "99999999999999999999999"], "seed"),
        (["--seed", "x"], "--seed"),
        (["--mean", "1,2,3,4,5"], "mean"),
        (["--mean", "zero"], "mean"),
        (["--std", "0"], "std"),
        (["--layout", "spiral"], "layout"),
        (["--fail-under", "101"], "--fail-under"),
        (["--fail-under", "nan"], "--fail-under"),
        (["--resume"], "--out"),
        (["--overwrite"], "--out"),
        (["--json", "/no/such/folder/a.json"], "--json"),
        (["--tsv", "/"], "--tsv"),
        (["--out", "/dev/null"], "--out"),
        (["--out", "/proc/none/such"], "--out"),
        (["--attack", "strong"], "targeted, paper"),
        (["--attack-steps", "0"], "steps"),
        (["--attack-restarts", "-1"], "restarts"),
        (["--tolerance", "0"], "tolerance"),
        (["--tolerance", "nan"], "tolerance"),
        (["--max-iterations", "0"], "iterations"),
        (["--start", "finish"], "start"),
        (["--colour"], "--colour"),
        (["extra"], "extra"),
    ],
)
def test_nonsense_is_one_line(run: Run, model: Path, arguments: list[str], words: str) -> None:
    result = run("certify", model, *arguments)
    assert result.code == 2
    assert result.out == ""
    assert words in result.complaint


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda_is_one_line(run: Run, model: Path) -> None:
    assert "cuda" in run("certify", model, "--device", "cuda").complaint


def test_a_model_that_names_nothing_lists_the_choices(run: Run, nameless: Path) -> None:
    told = run("certify", nameless).complaint
    assert "--eps" in told
    assert "--data" in told
    assert "fashion-mnist" in told
    assert "--data" in run("certify", nameless, "--eps", "0.1").complaint
    assert "--eps" in run("certify", nameless, "--data", "digits").complaint


@pytest.mark.parametrize("name", ["missing.onnx", "text.onnx", "text.txt", "", "x" * 5000, "nul\0byte"])
def test_files_that_are_no_models_are_one_line(run: Run, tmp_path: Path, name: str) -> None:
    for file in ("text.onnx", "text.txt"):
        (tmp_path / file).write_text("this is not a model")
    result = run("certify", f"{tmp_path}/{name}" if name else "", "--eps", "0.1", "--data", "digits")
    assert result.code == 2
    assert result.complaint


def test_out_is_resumed_or_overwritten_on_request_only(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["certify", model, "--samples", 8, "--out", out]
    assert run(*asked).code == 0
    before = (out / "samples.jsonl").read_bytes()
    assert "--resume" in run(*asked).complaint
    assert "eps is 0.1" in run(*asked, "--resume", "--eps", 0.1).complaint
    assert "batch_size" in run(*asked, "--resume", "--batch-size", 3).complaint
    assert "samples is 0:9" in run("certify", model, "--samples", 9, "--out", out, "--resume").complaint
    assert (out / "samples.jsonl").read_bytes() == before
    assert run("certify", model, "--out", out, "--resume").code == 0
    run_file = out / "run.json"
    run_file.write_text(run_file.read_text().replace('"torch": "', '"torch": "0.'))
    assert "versions is" in run("certify", model, "--out", out, "--resume").complaint
    assert (out / "samples.jsonl").read_bytes() == before
    assert run(*asked, "--overwrite", "--eps", 0.1).code == 0
    assert json.loads((out / "summary.json").read_text())["eps"] == 0.1


def test_another_model_is_not_resumed(run: Run, model: Path, nameless: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("certify", model, "--samples", 4, "--out", out).code == 0
    told = run("certify", nameless, "--eps", "0.25", "--data", "digits", "--out", out, "--resume").complaint
    assert "model_sha256" in told


def test_interrupted_and_resumed_is_as_if_never_interrupted(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["certify", model, "--samples", 40, "--batch-size", 8]
    assert run(*asked, "--out", tmp_path / "whole").code == 0
    original = Certification.result

    def stopping(self: Certification, number: int, *, checked: int = 0) -> BatchResult:
        if number == 2:
            raise KeyboardInterrupt
        return original(self, number, checked=checked)

    monkeypatch.setattr(Certification, "result", stopping)
    result = run(*asked, "--out", tmp_path / "parts")
    assert result.code == 130
    assert "16 of 40 images" in result.err
    assert f"llcert certify {model} --out {tmp_path}/parts --resume" in result.err
    assert result.out == ""
    half = json.loads((tmp_path / "parts" / "summary.json").read_text())
    assert (half["samples"], half["complete"]) == (16, False)
    monkeypatch.undo()
    assert run("certify", model, "--out", tmp_path / "parts", "--resume").code == 0
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert (parts / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert timeless(parts / "summary.json") == timeless(whole / "summary.json")


def test_interrupted_without_a_folder_says_so(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(self: Certification, number: int, *, checked: int = 0) -> BatchResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(Certification, "result", stopping)
    result = run("certify", model, "--samples", 4, "--json", "-")
    assert result.code == 130
    assert result.out == ""
    assert "--out" in result.err


def test_a_contradiction_leaves_a_reproducer(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradicting(self: Certification, number: int, *, checked: int = 0) -> BatchResult:
        raise Contradiction(7, 3, torch.zeros(1, 8, 8), torch.ones(1, 8, 8))

    monkeypatch.setattr(Certification, "result", contradicting)
    result = run("certify", model, "--samples", 4, "--out", tmp_path / "out")
    assert result.code == 3
    assert "contradiction_7.npz" in result.complaint
    found = np.load(tmp_path / "out" / "contradiction_7.npz")
    assert found["witness"].shape == (1, 8, 8)
    assert (int(found["label"]), float(found["eps"])) == (3, 0.25)
    assert len(str(found["model_sha256"])) == 64


def test_a_failed_self_check_and_bugs_exit_with_3(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, words in ((NumericalError("a value leaves its region"), "leaves"), (KeyError("oops"), "LLCERT_DEBUG")):

        def failing(*_: object, error: Exception = error, **__: object) -> int:
            raise error

        monkeypatch.setattr(Certification, "result", failing)
        result = run("certify", model, "--samples", 4)
        assert result.code == 3
        assert words in result.complaint


def test_debugging_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLCERT_DEBUG", "1")
    assert "Traceback" in run("certify", "missing.onnx").err


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_real_interrupt(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "llcert", "certify", str(model), "--batch-size", "1", "--out", str(out)]

    def heard() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits it ignored

    arguments = [*command, "--attack-restarts", "50"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stderr is not None
        while process.poll() is None and not ((out / "batches.jsonl").exists() and lines(out / "batches.jsonl")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130
    assert "--resume" in told
    assert "Traceback" not in told
    done = len(lines(out / "samples.jsonl"))
    assert 0 < done < 360
    assert json.loads((out / "summary.json").read_text())["samples"] == done


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_devices_agree(run: Run, model: Path) -> None:
    found = [
        json.loads(run("certify", model, "--dtype", "float64", "--device", device, "--json", "-").out)
        for device in ("cpu", "cuda")
    ]
    assert found[1]["device"].startswith("cuda (")
    assert found[0]["certified_accuracy"] == pytest.approx(found[1]["certified_accuracy"], abs=0.01)
    assert found[0]["global_lipschitz"] == pytest.approx(found[1]["global_lipschitz"], rel=1e-3)
