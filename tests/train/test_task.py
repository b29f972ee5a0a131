"""What training is asked: gaps, files and data that cannot be used, in one line each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutated
from toy_runs import Asked, asked, prepared, small_network
from train_jobs import MODELS, data_file, refused, saved

import llcert
from llcert.errors import InvalidInput, LlcertError
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, Reshape, relu
from llcert_train.settings import Recipe
from llcert_train.task import Task
from llcert_train.trainer import Diverged


def test_a_model_names_its_data_and_its_radius() -> None:
    job = prepared(Task(MODELS / "digits_relu.onnx", device="cpu"), Recipe())
    assert (job.options.data, job.options.eps, job.watch.eps) == ("digits", "0.5", 0.5)
    assert (job.test.name, job.test.split, len(job.test)) == ("digits", "test", 360)
    assert len(job.trainer.data) + job.watch.images.shape[0] == 1437
    assert job.trainer.schedule.radius(1.0) == pytest.approx(1.1 * 0.5)
    assert any("surgery" in note for note in job.notes)


def test_what_is_asked_wins_over_the_file(tmp_path: Path) -> None:
    path = saved(small_network(metadata={"data": "digits", "eps": "0.5", "mean": "0.25"}), tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    job = prepared(Task(path, mean=(0.5,), device="cpu"), Recipe(data=data, eps="1/8"))
    assert (job.options.data, job.options.eps, job.watch.eps, job.options.mean) == (data, "1/8", 0.125, (0.5,))


@pytest.mark.parametrize(("metadata", "words"), [({}, "names no data"), ({"data": "digits"}, "names no eps")])
def test_what_nobody_says(metadata: dict[str, str], words: str, tmp_path: Path) -> None:
    path = saved(small_network(metadata=metadata), tmp_path / "m.onnx")
    line = refused(Asked(Task(path), Recipe()), words)
    assert "--data" in line or "--eps" in line
    line = refused(Asked(Task(None), Recipe(arch="mlp", data=metadata.get("data", ""))), words)
    assert line.startswith("mlp ")


@pytest.mark.parametrize("eps", ["0", "0.0", "-1", "nan", "inf", "1/0", "", "much", "1e400"])
def test_a_radius_that_is_none(eps: str, tmp_path: Path) -> None:
    """From the file; in a recipe too, but for nothing, which leaves it open."""
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    path = saved(small_network(metadata={"eps": eps}), tmp_path / "m.onnx")
    refused(Asked(Task(path), Recipe(data=data)), "eps")
    if eps:
        with pytest.raises(InvalidInput, match="eps"):
            Recipe(eps=eps)


@pytest.mark.parametrize(
    "metadata",
    [{"mean": "much"}, {"mean": "nan"}, {"std": "0"}, {"std": "1,2"}, {"layout": "sideways"}, {"data": "/nowhere"}],
)
def test_metadata_that_make_no_sense(metadata: dict[str, str], tmp_path: Path) -> None:
    recipe = {} if "data" in metadata else {"data": data_file(tmp_path / "d.npz", [0, 1, 2] * 10)}
    path = saved(small_network(metadata={"eps": "0.5", **metadata}), tmp_path / "m.onnx")
    refused(Asked(Task(path), Recipe(**recipe)))


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_as_many_outputs_as_classes(classes: int, tmp_path: Path) -> None:
    path = saved(small_network(classes=3), tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", list(range(classes)) * 10)
    line = refused(Asked(Task(path), Recipe(data=data, eps="0.1")), "3 outputs")
    assert f"has {classes} classes" in line


def test_test_images_of_another_kind(tmp_path: Path) -> None:
    train = data_file(tmp_path / "train.npz", [0, 1, 2] * 10)
    for name, labels, shape in (("classes", [0, 1, 2, 3], (1, 4, 4)), ("shape", [0, 1, 2], (1, 4, 5))):
        other = data_file(tmp_path / f"{name}.npz", labels, shape)
        for model in (None, saved(small_network(), tmp_path / "m.onnx")):
            recipe = Recipe(data=train, eps="0.1", arch="mlp")
            refused(Asked(Task(model, test_data=other), recipe))


def test_a_test_set_may_lack_the_last_classes(tmp_path: Path) -> None:
    """A path counts the classes that it happens to hold."""
    train, test = data_file(tmp_path / "d.npz", [0, 1, 2] * 10), data_file(tmp_path / "t.npz", [0, 1, 1])
    for model in (None, saved(small_network(), tmp_path / "m.onnx")):
        job = prepared(Task(model, test_data=test, device="cpu"), Recipe(data=train, eps="0.1", arch="mlp"))
        assert len(llcert.certify(job.network(), job.test).samples) == 3


@pytest.mark.parametrize("recipe", [{"crop": 4}, {"crop": 7}, {"flip": True}])
def test_augmentation_that_the_images_do_not_allow(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Told before anything is written."""
    shape = (1, 4, 4) if "crop" in recipe else (16,)
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10, shape)
    refused(Asked(Task(None), Recipe(data=data, eps="0.1", arch="mlp", **recipe)), "crop")


def test_sparsity_needs_bounds(tmp_path: Path) -> None:
    refused(asked(tmp_path, loss="standard", sparsity=0.1), "sparsity: the standard loss computes no bounds")


@pytest.mark.parametrize("recipe", [{"quantile": 0.9}, {"per": "channel"}, {"batch_norm": "fold"}])
def test_surgery_is_for_networks_that_are_imported(recipe: dict[str, Any], tmp_path: Path) -> None:
    asked(tmp_path, **recipe).job()
    refused(asked(tmp_path, new=True, arch="mlp", **recipe), f"{next(iter(recipe))}: only networks that are imported")


def test_images_that_do_not_fit_the_network(tmp_path: Path) -> None:
    path = saved(small_network(), tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10, (3, 5, 5))
    refused(Asked(Task(path), Recipe(data=data, eps="0.1")), "do not fit")


@pytest.mark.parametrize("arch", ["mlp", "tiny-conv"])
def test_one_class_is_no_classification(arch: str, tmp_path: Path) -> None:
    """A class needs a rival: certify would refuse what comes out."""
    data = data_file(tmp_path / "d.npz", [0] * 20)
    refused(Asked(Task(None), Recipe(data=data, eps="0.1", arch=arch)), "two logits or more", LlcertError)
    path = saved(small_network(classes=1), tmp_path / "m.onnx")
    refused(Asked(Task(path), Recipe(data=data, eps="0.1")), "two logits or more", LlcertError)


def test_one_image_a_class_cannot_be_split(tmp_path: Path) -> None:
    data = data_file(tmp_path / "d.npz", [0, 1, 2])
    path = saved(small_network(), tmp_path / "m.onnx")
    refused(Asked(Task(path), Recipe(data=data, eps="0.1")), "no class holds two images")
    refused(Asked(Task(path, test_data=data), Recipe(data=data, eps="0.1")), "no class holds two images")


def test_two_images_a_class_are_enough_with_test_images(tmp_path: Path) -> None:
    data, test = (data_file(tmp_path / f"{n}.npz", [0, 1, 2] * n) for n in (2, 1))
    path = saved(small_network(), tmp_path / "m.onnx")
    job = prepared(Task(path, test_data=test, device="cpu"), Recipe(data=data, eps="0.1", batch=2))
    assert (len(job.trainer.data), len(job.watch.images), len(job.test)) == (3, 3, 3)
    job.trainer.train_step()


@pytest.mark.parametrize(
    "data", ["/nowhere/at/all.npz", "\0", "x" * 5000, "digits ", "empty.npz", "text.npz", "nothing", "wrong.txt"]
)
def test_data_that_are_none(data: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 1, 4, 4), np.uint8), y=np.zeros(0, np.int64))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "wrong.txt").write_text("hello")
    (tmp_path / "nothing").mkdir()
    path = saved(small_network(), tmp_path / "m.onnx")
    text = str(tmp_path / data) if (tmp_path / data.replace("\0", "_")[:100]).exists() else data
    refused(Asked(Task(path), Recipe(data=text, eps="0.1")))


def test_maxmin_needs_pairs(tmp_path: Path) -> None:
    node = apply(relu(), apply(Linear(torch.ones(5, 16)), apply(Reshape((16,)), apply(Input((1, 4, 4))))))
    path = saved(Network(apply(Linear(torch.ones(3, 5)), node)), tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    refused(Asked(Task(path), Recipe(data=data, eps="0.1", activation="maxmin")), "cannot be paired")


@pytest.mark.parametrize("what", ["missing", "folder", "ending", "empty", "text"])
def test_files_that_hold_no_model(what: str, tmp_path: Path) -> None:
    path = tmp_path / ("m.pth" if what == "ending" else "m.onnx")
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes({"empty": b"", "text": b"hello, world" * 10}.get(what, b"x"))
    refused(Asked(Task(path), Recipe(data=data_file(tmp_path / "d.npz", [0, 1, 2] * 10), eps="0.1")), None, LlcertError)


@pytest.mark.parametrize("seed", range(25))
def test_hostile_model_files(seed: int, tmp_path: Path) -> None:
    """A refusal in one line, whatever was done to the file."""
    path = tmp_path / "m.onnx"
    path.write_bytes(mutated(seed))
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 4, (3, 8, 8))
    refused_or_trained(Asked(Task(path, device="cpu"), Recipe(data=data, eps="0.1", held_out=3)))


@pytest.mark.parametrize("seed", range(25))
def test_damaged_model_files(seed: int, tmp_path: Path) -> None:
    """Some bytes of a file that fits its data: it may still be a network, of other weights."""
    chance = random.Random(seed)
    path = saved(small_network(), tmp_path / "m.onnx")
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 4)
    refused_or_trained(Asked(Task(path, device="cpu"), Recipe(data=data, eps="0.1", held_out=3)))


def refused_or_trained(question: Asked) -> None:
    try:
        job = question.job()
        job.watch(job.trainer.unmasked)
        job.trainer.train_step()
    except LlcertError as error:
        message = str(error)
    else:
        message = "a line"
        assert all(bool(leaf.isfinite().all()) for leaf in job.trainer.weights.leaves.values())
    assert len(message.splitlines()) == 1


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    network = small_network()
    for node in network.operators():
        if isinstance(node.op, Linear):
            node.op.weight[0, 0] = float("nan")
    question = asked(tmp_path)
    assert question.task.model is not None
    try:
        saved(network, question.task.model)
        question.job().trainer.train_step()
    except (LlcertError, Diverged) as error:
        message = str(error)
    assert len(message.splitlines()) == 1
