"""Training from the command line: from a file to a certified file, from a recipe to a certified file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import llcert
import llcert.cli.training
from llcert.certification import Settings
from llcert_train.settings import read_recipe, recipe_names

from .conftest import Run

MODELS = Path(__file__).parents[2] / "models"
STAGES = ("--stages", "global,attack,local")
"""What a certification has seconds for, of the many images that stay open after a short run."""
TRAINED = ("--epochs", 2, "--batch", 256, "--held-out", 20, "--attack-steps", 5)
SHORT = (*TRAINED, *STAGES)
LOCAL = ("--activation", "relu-theta", "--loss", "local-lip-b", "--ball", "local")


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "certify" / "summary.json").read_text())
    return found


def accuracies(found: dict[str, Any]) -> list[object]:
    return [found[f"{kind}_accuracy"] for kind in ("clean", "attacked", "certified")]


def stages(found: dict[str, Any]) -> list[str]:
    """The stages that were run after the clean one."""
    return [stage["name"] for stage in found["stages"][1:]]


def digits(path: Path, split: str, each: int) -> Path:
    """A file of the first images of each digit."""
    data = llcert.load_dataset("digits", split=split)
    chosen = [i for k in range(10) for i in np.flatnonzero(data.labels == k)[:each].tolist()]
    (batch,) = data.batches(chosen, len(chosen))
    np.savez(path, x=batch.images.numpy(), y=batch.labels.numpy())
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    command = [sys.executable, "-m", "llcert", "finetune", str(MODELS / "digits_relu.onnx"), "--out", str(out)]
    subprocess.run([*command, *map(str, SHORT)], check=True, capture_output=True)
    return out


def test_leaves_one_model_and_what_belongs_to_it(tuned: Path) -> None:
    assert [p.relative_to(tuned) for p in tuned.rglob("*.onnx")] == [Path("model.onnx")]
    assert {p.name for p in tuned.iterdir()} == {
        "model.onnx",
        "model.md",
        "run.json",
        "metrics.jsonl",
        "finished.pt",
        "certify",
    }
    assert [json.loads(line)["epoch"] for line in (tuned / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]


def test_the_file_keeps_names_metadata_and_shape(tuned: Path) -> None:
    before, after = (onnx.load(path) for path in (MODELS / "digits_relu.onnx", tuned / "model.onnx"))
    for kind in ("input", "output"):
        assert [v.name for v in getattr(before.graph, kind)] == [v.name for v in getattr(after.graph, kind)]
    assert {p.key: p.value for p in after.metadata_props} == {"llcert.data": "digits", "llcert.eps": "0.5"}
    labels = [n.op.label for n in llcert.load(tuned / "model.onnx").operators()]
    plain = [n.op.label for n in llcert.load(MODELS / "digits_relu.onnx").operators()]
    assert labels == [label.replace("ReLU", "MaxMin") for label in plain]


def test_a_fresh_certification_gives_the_numbers_of_the_run(run: Run, tuned: Path) -> None:
    fresh = run("certify", tuned / "model.onnx", "--json", "-", *STAGES)
    assert fresh.code == 0
    assert accuracies(json.loads(fresh.out)) == accuracies(summary(tuned))
    assert sorted(stages(json.loads(fresh.out))) == sorted(stages(summary(tuned)))


def test_the_card_tells_the_numbers_and_the_recipe(tuned: Path) -> None:
    card = (tuned / "model.md").read_text()
    clean, attacked, certified = accuracies(summary(tuned))
    for words, share in (("clean", clean), ("PGD (targeted)", attacked), ("certified", certified)):
        assert f"| {words} | {100 * float(str(share)):.2f} |" in card
    assert 'loss = "emma"' in card
    assert "0.5" in card
    assert str(tuned.parent) not in card


def test_a_finished_run_is_not_trained_again(run: Run, tuned: Path) -> None:
    before = (tuned / "model.onnx").read_bytes()
    result = run("finetune", MODELS / "digits_relu.onnx", "--out", tuned, "--resume")
    assert result.code == 0, result.err
    assert (tuned / "model.onnx").read_bytes() == before


def test_a_finished_run_is_extended(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, card and certificate are the new ones, also where a kill came between the model and its certificate."""
    out, start = tmp_path / "run", ("train", "mlp", "--data", "digits", "--eps", 0.3, "--loss", "gloro")
    more = ("train", "--out", out, "--resume")
    assert run(*start, "--out", out, *SHORT).code == 0
    hashes, models = [summary(out)["model_sha256"]], [(out / "model.onnx").read_bytes()]
    for epochs in (3, 4):
        if epochs == 4:
            with monkeypatch.context() as patched:
                patched.setattr(llcert.cli.training, "certify", lambda *a, **k: 130)
                assert run(*more, "--epochs", epochs).code == 130
            result = run(*more)
        else:
            result = run(*more, "--epochs", epochs)
        assert result.code == 0, result.err
        hashes.append(summary(out)["model_sha256"])
        models.append((out / "model.onnx").read_bytes())
        card = (out / "model.md").read_text()
        assert f"epochs: {epochs};" in card
        assert f"| certified | {100 * summary(out)['certified_accuracy']:.2f} |" in card
    assert len({*hashes}) == len({*models}) == 3
    assert hashes[-1] == hashlib.sha256(models[-1]).hexdigest()
    result = run(*more, "--epochs", 2)
    assert result.code == 2
    assert result.complaint == "error: --epochs 2: 4 are done; ask for more, or start again with --overwrite"
    assert (out / "model.onnx").read_bytes() == models[-1]


def test_plots_of_the_run(run: Run, tuned: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", tuned, "--out", tmp_path)
    assert result.code == 0, result.err
    names = {f"figure{n}.{kind}" for n in (2, 3) for kind in ("png", "svg")}
    assert {p.name for p in tmp_path.iterdir()} == names, "figure 4 is about norms of single images"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--eps", "0"], "above 0"),
        (["--eps", "-1"], "eps"),
        (["--loss", "hope"], "standard, ibp"),
        (["--activation", "swish"], "relu-theta, maxmin, maxmin-clipped, keep"),
        (["--epochs", 0], "at least 1"),
        (["--rate", "nan"], "rate"),
        (["--recipe", "nothing"], "finetune"),
        (["--stages", "global,hope"], "crown-ball, crown-ball-intermediate, branch"),
        (["--samples", "0"], "samples"),
        (["--samples", "300:400"], "360"),
        (["--stages", ""], "crown-ball, crown-ball-intermediate, branch"),
        (["--assurance", "faith"], "probabilistic"),
        (["--data", "nowhere"], "nowhere"),
        (["--test-data", "x.npz"], "--test-data"),
        (["--crop", 8], "crop"),
        (["--resume", "--overwrite"], "exclude"),
        (["--device", "abacus"], "device"),
    ],
)
def test_bad_arguments_are_one_line(run: Run, tmp_path: Path, arguments: list[object], words: str) -> None:
    out = tmp_path / "run"
    result = run("finetune", MODELS / "digits_relu.onnx", "--out", out, *SHORT, *arguments)
    assert result.code == 2
    assert words in result.err.splitlines()[-1]
    assert not out.exists()


def test_bad_data_is_one_line(run: Run, tmp_path: Path) -> None:
    images = np.zeros((30, 1, 8, 8), np.uint8)
    for name, labels, words in (
        ("many", np.arange(30) % 11, "11 classes"),
        ("few", np.arange(30) % 9, "9 classes"),
        ("negative", np.arange(30) % 10 - 1, "labels run from -1"),
    ):
        np.savez(tmp_path / f"{name}.npz", x=images, y=labels)
        result = run(
            "finetune", MODELS / "digits_relu.onnx", "--data", tmp_path / f"{name}.npz", "--out", tmp_path / "o"
        )
        assert result.code == 2
        assert words in result.complaint
    assert not (tmp_path / "o").exists()


def test_a_network_with_nothing_to_clip(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "linear.onnx"
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    llcert.save(llcert.from_torch(module, torch.zeros(1, 1, 8, 8)), model)
    asked = ("finetune", model, "--data", "digits", "--eps", 0.5, "--out", tmp_path / "run", *SHORT)
    result = run(*asked)
    assert result.code == 2
    assert "--activation keep" in result.complaint
    assert run(*asked, "--activation", "keep").code == 0


def test_data_from_a_path_is_split_and_not_named_in_the_file(run: Run, tmp_path: Path) -> None:
    """And certified by all the stages of `llcert certify`, where none are named."""
    data, out = digits(tmp_path / "mine.npz", "train", 10), tmp_path / "run"
    result = run("finetune", MODELS / "digits_relu.onnx", "--data", data, "--out", out, *TRAINED)
    assert result.code == 0, result.err
    found = summary(out)
    assert tuple(stages(found)) == Settings(eps=0.5).running
    assert found["assurance"] == "deterministic"
    assert found["samples"] == 20
    assert found["split"] == "test"
    assert llcert.load(out / "model.onnx").metadata == {"eps": "0.5"}


def test_normalisation_outside_the_graph_goes_into_the_metadata(run: Run, tmp_path: Path) -> None:
    model, out = MODELS / "digits_relu.onnx", tmp_path / "run"
    train, test = digits(tmp_path / "train.npz", "train", 40), digits(tmp_path / "test.npz", "test", 4)
    asked = ("--data", train, "--test-data", test, "--eps", 0.05, "--mean", 0.1, "--std", 0.5, *LOCAL)
    result = run("finetune", model, "--out", out, *asked, *SHORT)
    assert result.code == 0, result.err
    metadata = llcert.load(out / "model.onnx").metadata
    assert (metadata["mean"], metadata["std"]) == ("0.1", "0.5")
    fresh = run("certify", out / "model.onnx", "--data", test, "--json", "-", *STAGES)
    assert accuracies(json.loads(fresh.out)) == accuracies(summary(out))
    assert 0 < summary(out)["certified_accuracy"] <= summary(out)["clean_accuracy"]


def _mnist(root: Path, count: int = 20) -> None:
    """Random pictures in MNIST's files."""
    rng = np.random.default_rng(0)
    folder = root / "mnist"
    folder.mkdir(parents=True)
    for stem in ("train", "t10k"):
        images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def _tiny_imagenet(root: Path, classes: int = 2, each: int = 4) -> None:
    """Random pictures in Tiny-ImageNet's folders."""
    top = root / "tiny-imagenet" / "tiny-imagenet-200"
    wnids = [f"n{i:08d}" for i in range(classes)]
    rng = np.random.default_rng(0)
    lines = []
    for wnid in wnids:
        for part in (f"train/{wnid}/images", "val/images"):
            (top / part).mkdir(parents=True, exist_ok=True)
            for i in range(each if part.startswith("train") else 1):  # certifying one takes minutes
                stream = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
                name = f"{wnid}_{i}.JPEG" if part.startswith("train") else f"val_{len(lines)}.JPEG"
                (top / part / name).write_bytes(stream.getvalue())
                if part.startswith("val"):
                    lines.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    (top / "wnids.txt").write_text("\n".join(wnids))
    (top / "val" / "val_annotations.txt").write_text("\n".join(lines))


def _cifar(root: Path, count: int = 30) -> None:
    """Random pictures in CIFAR-10's binary files."""
    rng = np.random.default_rng(0)
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())


WRITERS = {"mnist": _mnist, "tiny-imagenet": _tiny_imagenet, "cifar10": _cifar}
SLOW = ("tiny-imagenet-8c2f", "cifar10-6c2f", "cifar10-6c2f-maxmin", "cifar10-4c3f")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in recipe_names() if n != "finetune"],
)
def test_every_recipe_runs_end_to_end(run: Run, tmp_path: Path, name: str) -> None:
    WRITERS[read_recipe(name).data](tmp_path / "data")
    small = ("--epochs", 2, "--batch", 4, "--held-out", 2, "--attack-steps", 2, "--evaluate", 2, "--warm-up", 0)
    out = tmp_path / "run"
    result = run("train", "--recipe", name, "--data-root", tmp_path / "data", "--out", out, *small, *STAGES)
    assert result.code == 0, result.err
    assert [p.name for p in out.rglob("*.onnx")] == ["model.onnx"]
    assert llcert.load(out / "model.onnx").metadata["eps"] == read_recipe(name).eps


def test_a_recipe_of_ones_own(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'arch = "mlp"\ndata = "digits"\neps = "0.3"\nloss = "gloro"\nepochs = 1\nbatch = 256\nheld_out = 20\n'
    )
    weak = ("--samples", 20, "--stages", "global", "--assurance", "estimate")
    result = run("train", "--recipe", file, "--out", tmp_path / "run", "--rate", 0.002, *weak)
    assert result.code == 0, result.err
    found = summary(tmp_path / "run")
    assert (found["samples"], stages(found), found["assurance"]) == (20, ["global"], "estimate")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (stored["loss"], stored["rate"], stored["eps"]) == ("gloro", 0.002, "0.3")


def test_orthogonal_layers_have_norm_one(run: Run, tmp_path: Path) -> None:
    asked = ("train", "tiny-conv", "--data", "digits", "--eps", 0.3, "--orthogonal", "--activation", "maxmin")
    result = run(*asked, "--out", tmp_path / "run", *SHORT, "--loss", "gloro")
    assert result.code == 0, result.err
    layers = summary(tmp_path / "run")["layers"]
    assert isinstance(layers, list)
    assert all(layer["global_norm"] <= 1 + 1e-4 for layer in layers[:-1])


def test_train_without_an_architecture(run: Run, tmp_path: Path) -> None:
    result = run("train", "--data", "digits", "--eps", 1, "--out", tmp_path / "run")
    assert result.code == 2
    assert "4C3F" in result.complaint


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupted_and_resumed_gives_the_same_model(run: Run, tmp_path: Path) -> None:
    asked = ["finetune", str(MODELS / "digits_relu.onnx"), "--epochs", "2", "--batch", "128", "--held-out", "16"]
    asked += ["--stages", "global,attack", "--keep-vectors", *LOCAL]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*asked, "--out", whole).code == 0
    command = [sys.executable, "-m", "llcert", *asked, "--out", str(cut)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # rounding depends on the number of threads
    with subprocess.Popen(command, env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (cut / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert not (cut / "model.onnx").exists()
    found = re.search(r"interrupted after step (\d+) of (\d+), saved; go on with: llcert finetune .* --resume", err)
    assert found is not None
    assert 0 < int(found[1]) < int(found[2])
    assert run("finetune", MODELS / "digits_relu.onnx", "--out", cut, "--resume").code == 0
    assert (cut / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
    assert accuracies(summary(cut)) == accuracies(summary(whole))
    assert stages(summary(cut)) == ["global", "attack", "targeted"], "the stages belong to the run"


def test_another_recipe_cannot_be_resumed(run: Run, tuned: Path) -> None:
    result = run("finetune", MODELS / "digits_relu.onnx", "--out", tuned, "--resume", "--kappa", 0.5)
    assert result.code == 2
    assert "kappa is 0.5 now, but was 0.0" in result.complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--stages", "global"), "stages is ['global'] now"),
        (("--assurance", "estimate"), "assurance is estimate now"),
        (("--samples", 7), "samples is 7 now"),
    ],
)
def test_another_certification_cannot_be_resumed(run: Run, tuned: Path, arguments: tuple[str, str], words: str) -> None:
    result = run("finetune", MODELS / "digits_relu.onnx", "--out", tuned, "--resume", *arguments)
    assert result.code == 2
    assert words in result.complaint
