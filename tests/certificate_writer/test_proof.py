"""`llcert certify --proof`, checked, changed, interrupted and gone on with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import certificate_json

from llcert.certificate_writer.folder import packed
from llcert.checker import check
from llcert.cli import main
from llcert.data import load_dataset

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = ("digits_relu_theta", "digits_maxmin_clipped")


def certify(model: str, proof: Path, *more: object) -> int:
    return main([str(a) for a in ("certify", MODELS / f"{model}.onnx", "--proof", proof, "--no-self-check", *more)])


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The certificates of a few dozen images."""
    found = {}
    for model in SHIPPED:
        found[model] = tmp_path_factory.mktemp("proofs") / model
        assert certify(model, found[model], "--samples", 30, "--out", f"{found[model]}.run") == 0
    return found


def reasons(folder: Path) -> list[str]:
    return [r.reason for r in check(folder) if not r.accepted]


@pytest.mark.parametrize("model", SHIPPED)
def test_every_certified_image_is_there_and_accepted(model: str, proofs: dict[str, Path]) -> None:
    run = Path(f"{proofs[model]}.run") / "samples.jsonl"
    samples = [json.loads(line) for line in run.read_text().splitlines()]
    certified = [s["index"] for s in samples if s["verdict"] == "certified"]
    content = certificate_json(proofs[model])
    assert [entry["index"] for entry in content["images"]] == certified
    assert len(certified) > 10
    assert reasons(proofs[model]) == []
    assert content["semantics"] == "float32"
    assert content["model"]["name"] == f"{model}.onnx"
    data = {"data": "digits", "split": "test", "selection": "0:30"}
    assert content["source"] == {**data, "sha256": load_dataset("digits").sha256(range(30))}


def copied(folder: Path, to: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            (to / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(folder)).write_bytes(file.read_bytes())
    return to


def changed(folder: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the arrays of a file and puts its hash right again."""
    import hashlib

    with np.load(folder / name) as held:
        arrays = dict(held)
    edit(arrays)
    content, certificate = packed(arrays), certificate_json(folder)
    (folder / name).write_bytes(content)
    certificate["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "certificate.json").write_text(json.dumps(certificate))


@pytest.mark.parametrize("model", SHIPPED)
def test_another_model_is_rejected_by_the_first_rule_that_fails(
    model: str, proofs: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(proofs[model], tmp_path)
    changed(folder, "model.npz", lambda a: a.update({k: a[k] * 1.01 for k in a if k.endswith(".data")}))
    found = reasons(folder)
    assert len(found) == len(certificate_json(folder)["images"])
    assert all("rule 1 (centre), block" in r or "rule 2 (box), block" in r for r in found)


@pytest.mark.parametrize("model", SHIPPED)
def test_a_larger_eps_is_rejected(model: str, proofs: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(proofs[model], tmp_path)
    content = certificate_json(folder)
    content["eps"] = str(Fraction(content["eps"]) * 21 / 20)
    (folder / "certificate.json").write_text(json.dumps(content))
    assert len(reasons(folder)) == len(content["images"])


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_found(seed: int, proofs: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(proofs[SHIPPED[seed % 2]], tmp_path)
    moment = random.Random(seed)
    name = moment.choice(certificate_json(folder)["images"])["file"]
    content = bytearray((folder / name).read_bytes())
    content[moment.randrange(len(content))] ^= 1 << moment.randrange(8)
    (folder / name).write_bytes(bytes(content))
    (reason,) = reasons(folder)
    assert reason.endswith(f"{name}: its SHA-256 is not the one in certificate.json")


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_a_run_that_is_killed_leaves_a_valid_certificate_and_goes_on(tmp_path: Path) -> None:
    proof, out, model = tmp_path / "proof", tmp_path / "out", MODELS / "digits_relu_theta.onnx"
    asked = ["--samples", "16", "--batch-size", "4", "--out", str(out), "--proof", str(proof), "--no-self-check"]
    command = [sys.executable, "-m", "llcert", "certify", str(model), *asked]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not ((proof / "images").is_dir() and len(claims_of(proof)) > 3):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    before = claims_of(proof)
    assert reasons(proof) == []
    assert main(["certify", str(model), "--out", str(out), "--resume", "--no-self-check"]) == 0
    assert reasons(proof) == []
    assert main(["certify", str(model), "--samples", "16", "--batch-size", "4", "--proof", f"{proof}2"]) == 0
    assert claims_of(proof) == claims_of(Path(f"{proof}2")) > before


def claims_of(folder: Path) -> list[int]:
    try:
        return [entry["index"] for entry in certificate_json(folder)["images"]]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--assurance", "estimate"), "--proof needs --assurance deterministic, not estimate"),
        (("--assurance", "probabilistic"), "--proof needs --assurance deterministic, not probabilistic"),
        (("--resume",), "--resume needs --out DIR"),
    ],
)
def test_what_a_proof_cannot_be_of(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify("digits_relu_theta", tmp_path / "proof", "--samples", 2, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_folder_that_holds_a_certificate(
    proofs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(proofs["digits_relu_theta"], tmp_path)
    assert certify("digits_maxmin_clipped", folder, "--samples", 2) == 2
    assert "holds an earlier run; give --resume to continue it or --overwrite to replace it" in capsys.readouterr().err
    out = ("--out", tmp_path / "out", "--samples", 2)
    assert certify("digits_maxmin_clipped", folder, "--resume", *out) == 2
    assert "holds another model" in capsys.readouterr().err
    assert reasons(folder) == []
    assert certify("digits_maxmin_clipped", folder, "--overwrite", "--samples", 4) == 0
    assert certificate_json(folder)["model"]["name"] == "digits_maxmin_clipped.onnx"
    assert reasons(folder) == []
    assert {f"images/{f.name}" for f in (folder / "images").iterdir()} <= set(certificate_json(folder)["files"])
