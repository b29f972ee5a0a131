"""From what was asked to a run: defaults, refusals, splits, and what the exported file carries."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutated
from toy_runs import Asked, asked, prepared, same, small_network
from toys import blobs

import llcert
from llcert.certify import Settings
from llcert.data import Dataset, load_dataset
from llcert.data.dataset import ArrayImages
from llcert.errors import InvalidInput, LlcertError
from llcert.frontend.adapt import adapt
from llcert.ir import Input, Network, apply
from llcert.ops import Clamp, Linear, Reshape, Tanh, Transpose, relu
from llcert_train import zoo
from llcert_train.job import Job, _augmented
from llcert_train.settings import Recipe
from llcert_train.task import Task
from llcert_train.trainer import Diverged

MODELS = Path(__file__).parents[2] / "models"


def data_file(path: Path, labels: Sequence[int], shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> str:
    """Random bytes with these labels, no two images alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.array(labels, dtype=np.int64))
    return str(path)


def saved(network: Network, path: Path) -> Path:
    llcert.save(network, path)
    return path


def refused(question: Asked, words: str | None = None, kind: type[LlcertError] = InvalidInput) -> str:
    with pytest.raises(kind, match=words) as error:
        question.job()
    (line,) = str(error.value).splitlines()
    assert 10 < len(line) < 1000
    return line


def pixels_of(dataset: Dataset) -> list[bytes]:
    """The images of a data set as bytes."""
    (batch,) = dataset.batches(range(len(dataset)), len(dataset))
    return [image.numpy().tobytes() for image in (batch.images * 255).round().to(torch.uint8).flatten(1)]


def trained_on(job: Job) -> list[bytes]:
    images, _ = job.trainer.data.batch(torch.arange(len(job.trainer.data)))
    return [image.numpy().tobytes() for image in (images * 255).round().to(torch.uint8).flatten(1)]


def watched(job: Job) -> list[bytes]:
    return [image.numpy().tobytes() for image in (job.watch.images * 255).round().to(torch.uint8).flatten(1)]


# What the model's file says


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


# Models and data that do not go together


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


# Networks that cannot be what was asked


def headless(kind: str) -> Network:
    """Networks without anything that has a constant piece."""
    image = apply(Input((1, 4, 4)))
    flat = apply(Reshape((16,)), image)
    if kind == "tanh":
        flat = apply(Tanh(), apply(Linear(torch.eye(16)), flat))
    return Network(apply(Linear(torch.arange(48.0).reshape(3, 16) / 48), flat))


@pytest.mark.parametrize("kind", ["linear", "tanh"])
def test_nothing_to_clip(kind: str, tmp_path: Path) -> None:
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    path = saved(headless(kind), tmp_path / "m.onnx")
    for activation in ("relu-theta", "maxmin", "maxmin-clipped"):
        question = Asked(Task(path), Recipe(data=data, eps="0.1", activation=activation))
        assert "--activation keep" in refused(question, "no ReLU and no MaxMin")
    job = prepared(Task(path, device="cpu"), Recipe(data=data, eps="0.1", activation="keep", warm_up=0.0))
    for _ in range(2):
        job.trainer.train_step()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"activation": "swish"}, "activation 'swish'"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"orthogonal": True}, "orthogonal"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_surgery_that_there_is_not(recipe: dict[str, Any], words: str, tmp_path: Path) -> None:
    device = recipe.pop("device", "cpu")
    question = asked(tmp_path, **recipe)
    refused(replace(question, task=replace(question.task, device=device)), words)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"arch": "resnet-1000"}, "resnet-1000"),
        ({"arch": ""}, "architecture"),
        ({"arch": "mlp", "activation": "swish"}, "swish"),
        ({"arch": "8C2F"}, "too small"),
    ],
)
def test_new_networks_that_there_are_not(recipe: dict[str, Any], words: str, tmp_path: Path) -> None:
    refused(asked(tmp_path, new=True, **recipe), words)


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


# Splits


def test_named_data_have_their_own_test_images(tmp_path: Path) -> None:
    other = data_file(tmp_path / "d.npz", list(range(10)) * 3, (1, 8, 8))
    for task in (Task(MODELS / "digits_relu.onnx", test_data=other), Task(None, test_data=other)):
        line = refused(Asked(task, Recipe(data="digits", eps="0.5", arch="mlp")), "--test-data: digits has a test set")
        assert "leave the option out" in line


def test_a_path_with_test_images_is_trained_on_whole(tmp_path: Path) -> None:
    train = data_file(tmp_path / "train.npz", [0, 1, 2] * 20, seed=1)
    test = data_file(tmp_path / "test.npz", [0, 1, 2] * 5, seed=2)
    job = prepared(Task(None, test_data=test, device="cpu"), Recipe(data=train, eps="0.1", arch="mlp", held_out=6))
    assert sorted(trained_on(job) + watched(job)) == sorted(pixels_of(load_dataset(train)))
    assert pixels_of(job.test) == pixels_of(load_dataset(test))


@pytest.mark.parametrize("sizes", [(50, 50, 50), (5, 100, 37), (2, 10, 3), (1, 40, 40)])
def test_a_path_is_split_by_class(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """A fifth of every class, at least one image where it has two, and the same fifth every time."""
    labels = [k for k, n in enumerate(sizes) for _ in range(n)]
    random.Random(0).shuffle(labels)
    data = data_file(tmp_path / "d.npz", labels)
    question = Asked(Task(None, device="cpu"), Recipe(data=data, eps="0.1", arch="mlp", held_out=8))
    job = question.job()
    every = sorted(pixels_of(load_dataset(data)))
    assert sorted(trained_on(job) + watched(job) + pixels_of(job.test)) == every
    assert len(set(every)) == len(labels), "all images differ, so the parts have none in common"
    for k, size in enumerate(sizes):
        tested = int((job.test.labels == k).sum())
        assert abs(tested - size / 5) <= 0.5 or tested == (1 if size > 1 else 0)
        assert int((job.trainer.data.labels == k).sum()) >= 1
    again = question.job()
    assert pixels_of(again.test) == pixels_of(job.test)
    assert trained_on(again) == trained_on(job)
    assert watched(again) == watched(job)
    other = replace(question, recipe=question.recipe.changed({"seed": 1})).job()
    if min(sizes) > 20:
        assert pixels_of(other.test) != pixels_of(job.test)
        assert watched(other) != watched(job)


@pytest.mark.parametrize(("asked_for", "held"), [(3, 3), (30, 30), (10**6, 60)])
def test_held_out_images_are_spread_over_the_classes(asked_for: int, held: int, tmp_path: Path) -> None:
    """At most half of all: something must be left to train on."""
    train = data_file(tmp_path / "d.npz", [0, 1, 2] * 40)
    task = Task(None, test_data=train, device="cpu")
    job = prepared(task, Recipe(data=train, eps="0.1", arch="mlp", held_out=asked_for))
    assert len(job.watch.images) == held
    assert torch.bincount(job.watch.labels).tolist() == [held // 3] * 3
    assert not set(watched(job)) & set(trained_on(job))


def test_images_and_labels_stay_together(tmp_path: Path) -> None:
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 20)
    whole = load_dataset(data)
    label_of = dict(zip(pixels_of(whole), whole.labels.tolist(), strict=True))
    job = prepared(Task(None, device="cpu"), Recipe(data=data, eps="0.1", arch="mlp", held_out=6))
    _, labels = job.trainer.data.batch(torch.arange(len(job.trainer.data)))
    for images, found in (
        (trained_on(job), labels.tolist()),
        (watched(job), job.watch.labels.tolist()),
        (pixels_of(job.test), job.test.labels.tolist()),
    ):
        assert [label_of[i] for i in images] == found


# Surgery


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_surgery_costs_no_accuracy(quantile: float, tmp_path: Path) -> None:
    """Half a point of the training images at most; where a quantile would, thresholds are out of reach."""
    question = asked(tmp_path, quantile=quantile)
    job = question.job()
    assert question.task.model is not None
    before, after = llcert.load(question.task.model), job.trainer.weights.network
    images, labels = job.trainer.data.batch(torch.arange(len(job.trainer.data)))
    with torch.no_grad():
        old, new = before(images), after(images)
    right = [float((z.argmax(1) == labels).double().mean()) for z in (old, new)]
    assert right[1] >= right[0] - 0.005
    (note,) = (n for n in job.notes if n.startswith("surgery"))
    assert f"{100 * right[0]:.1f} % before, {100 * right[1]:.1f} % after" in note
    if quantile == 1:
        torch.testing.assert_close(new, old)
    ops = [n.op for n in after.operators() if isinstance(n.op, Clamp)]
    assert len(ops) == 3
    assert all(op.high is not None and bool((op.high > 0).all()) for op in ops)


def test_surgery_that_would_cost_accuracy_is_out_of_reach() -> None:
    """Half of all values clipped ruins a network that knows its digits; the largest of them clip nothing."""
    job = prepared(Task(MODELS / "digits_relu.onnx", device="cpu"), Recipe(quantile=0.5))
    (note,) = (n for n in job.notes if n.startswith("surgery"))
    assert "quantile 1)" in note
    images, _ = job.trainer.data.batch(torch.arange(len(job.trainer.data)))
    with torch.no_grad():
        expected = llcert.load(MODELS / "digits_relu.onnx")(images)
        torch.testing.assert_close(job.trainer.program.logits(images), expected)


def test_keep_changes_nothing(tmp_path: Path) -> None:
    question = asked(tmp_path, activation="keep")
    job = question.job()
    assert question.task.model is not None
    before = llcert.load(question.task.model)
    assert [type(n.op) for n in job.trainer.weights.network.operators()] == [type(n.op) for n in before.operators()]
    with torch.no_grad():
        assert torch.equal(job.trainer.weights.network(job.watch.images), before(job.watch.images))


# New networks


@pytest.mark.parametrize("activation", ["relu", "relu-theta", "maxmin", "maxmin-clipped", "keep"])
def test_a_new_network_is_the_zoos(activation: str, tmp_path: Path) -> None:
    """A function of the seed alone, which leaves torch's own random numbers where they are."""
    question = asked(tmp_path, new=True, arch="tiny-conv", activation=activation, threshold=0.7, seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    job = question.job()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(dict(question.job().trainer.weights.leaves), dict(job.trainer.weights.leaves))
    torch.manual_seed(5)
    kind = "relu" if activation == "keep" else activation
    module = zoo.build("tiny-conv", input_shape=(1, 4, 4), classes=3, activation=kind, threshold=0.7)
    with torch.no_grad():
        expected = module(job.watch.images)
        torch.testing.assert_close(job.trainer.program.logits(job.watch.images), expected)
    other = replace(question, recipe=question.recipe.changed({"seed": 6})).job()
    assert not same(dict(other.trainer.weights.leaves), dict(job.trainer.weights.leaves))


# The exported file


def exported(job: Job, path: Path) -> Network:
    llcert.save(job.network(), path)
    return llcert.load(path)


def test_the_file_keeps_the_names_and_says_what_certifying_it_takes(tmp_path: Path) -> None:
    network = small_network(metadata={"data": "digits", "eps": "0.5", "note": "mine"})
    model = saved(network, tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    task = Task(model, mean=(0.4,), std=(0.3,), layout="NCHW", device="cpu")
    job = prepared(task, Recipe(data=data, eps="36/255", warm_up=0.0, batch=5))
    for _ in range(3):
        job.trainer.train_step()
    after = exported(job, tmp_path / "out.onnx")
    assert (after.input_name, after.output_name) == ("picture", "scores")
    assert after.input.shape == network.input.shape
    assert {k: after.metadata.get(k) for k in ("eps", "mean", "std", "layout", "data")} == {
        "eps": "36/255",
        "mean": "0.4",
        "std": "0.3",
        "layout": "NCHW",
        "data": None,
    }
    content = (tmp_path / "out.onnx").read_bytes()
    for secret in (str(tmp_path), "d.npz", "m.onnx"):
        assert secret.encode() not in content
    images = job.watch.images
    with torch.no_grad():
        inside = job.trainer.program.logits(images)
        torch.testing.assert_close(after((images - 0.4) / 0.3), inside)
        again, _ = adapt(after, (1, 4, 4), mean=(0.4,), std=(0.3,))
        torch.testing.assert_close(again(images), inside)


def test_the_file_is_certified_as_it_was_watched(tmp_path: Path) -> None:
    """By its metadata alone."""
    model = saved(small_network(), tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    job = prepared(Task(model, mean=(0.4,), std=(0.3,), device="cpu"), Recipe(data=data, eps="0.05"))
    after = exported(job, tmp_path / "out.onnx")
    report = llcert.certify(after, (job.watch.images, job.watch.labels))
    held = job.watch({})
    assert report.subject.settings.eps == job.watch.eps
    assert report.subject.global_lipschitz == pytest.approx(held.global_lipschitz, rel=0.01)
    assert report.subject.normalisation != ""
    right = sum(s.prediction == s.label for s in report.samples) / len(report.samples)
    assert held.clean_accuracy == pytest.approx(right)


def test_a_named_set_stays_named(tmp_path: Path) -> None:
    job = prepared(Task(MODELS / "digits_relu.onnx", device="cpu"), Recipe(eps="0.25"))
    after = exported(job, tmp_path / "out.onnx")
    assert (after.metadata["data"], after.metadata["eps"]) == ("digits", "0.25")
    new = prepared(Task(None, device="cpu"), Recipe(data="digits", eps="0.25", arch="mlp"))
    assert exported(new, tmp_path / "new.onnx").metadata == {"data": "digits", "eps": "0.25"}


def test_a_path_that_the_model_names_is_not_passed_on(tmp_path: Path) -> None:
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    model = saved(small_network(metadata={"data": data, "eps": "0.1"}), tmp_path / "m.onnx")
    after = exported(prepared(Task(model, device="cpu"), Recipe()), tmp_path / "out.onnx")
    assert "data" not in after.metadata
    assert b"d.npz" not in (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize("layout", [None, "NHWC"])
def test_networks_that_want_their_channels_last(layout: str | None, tmp_path: Path) -> None:
    image = apply(Input((4, 5, 2)), name="picture")
    flat = apply(Reshape((40,)), apply(Transpose((2, 0, 1)), image))
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    network = Network(apply(Linear(torch.eye(6)[:3]), apply(relu(), apply(Linear(weight), flat))))
    model = saved(network, tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10, (2, 4, 5))
    job = prepared(Task(model, layout=layout, device="cpu"), Recipe(data=data, eps="0.1", activation="keep"))
    job.trainer.train_step()
    after = exported(job, tmp_path / "out.onnx")
    assert after.input.shape == (4, 5, 2)
    assert after.metadata.get("layout") == layout
    with torch.no_grad():
        moved = job.watch.images.permute(0, 2, 3, 1)
        torch.testing.assert_close(after(moved), job.trainer.program.logits(job.watch.images))


def test_a_network_in_double_precision_stays_one(tmp_path: Path) -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat = apply(Reshape((16,)), apply(Input((1, 4, 4), torch.float64)))
    network = Network(apply(Linear(weight[:3, :8]), apply(relu(), apply(Linear(weight), flat))))
    model = saved(network, tmp_path / "m.onnx")
    data = data_file(tmp_path / "d.npz", [0, 1, 2] * 10)
    job = prepared(Task(model, device="cpu"), Recipe(data=data, eps="0.1", warm_up=0.0))
    job.trainer.train_step()
    job.trainer.train_step()
    assert all(leaf.dtype == torch.float64 for leaf in job.trainer.weights.leaves.values())
    assert job.watch.images.dtype == torch.float64
    assert exported(job, tmp_path / "out.onnx").dtype == torch.float64


# What a run is known by


def test_identity_changes_with_whatever_matters(tmp_path: Path) -> None:
    data, labels = str(tmp_path / "d.npz"), [0, 1, 2] * 10
    data_file(tmp_path / "d.npz", labels)
    model = saved(small_network(), tmp_path / "m.onnx")

    def identity(task: Task, **recipe: Any) -> dict[str, Any]:
        return prepared(replace(task, device="cpu"), Recipe(**{"data": data, "eps": "0.1", **recipe})).identity

    base = identity(Task(model))
    assert base == identity(Task(model, stages=Settings(eps=0.1).stages, assurance="deterministic")), "the defaults"
    assert identity(Task(model)) == base
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    assert identity(Task(copy)) == base, "the content counts, not the place"
    others = {
        "model_sha256": identity(Task(saved(small_network(1), tmp_path / "other.onnx"))),
        "eps": identity(Task(model), eps="0.2"),
        "mean": identity(Task(model, mean=(0.5,))),
        "layout": identity(Task(model, layout="NCHW")),
        "stages": identity(Task(model, stages=("global", "attack"))),
        "assurance": identity(Task(model, assurance="estimate")),
        "test_data": identity(Task(model, test_data=data_file(tmp_path / "t.npz", labels))),
        "data": identity(Task(model), data=data_file(tmp_path / "e.npz", labels)),
    }
    for name, other in others.items():
        assert {k for k in base if other[k] != base[k]} == {name} or name == "test_data"
        assert other[name] != base[name]
    data_file(tmp_path / "d.npz", [2, 1, 0] * 10)
    assert identity(Task(model))["data_sha256"] != base["data_sha256"]


def test_a_task_goes_through_json() -> None:
    task = Task(Path("m.onnx"), "test.npz", "root", (0.5, 1.0), (1.0,), "NCHW", "cpu", ("global", "local"), "estimate")
    assert "m.onnx" not in str(task.to_json())
    assert Task(Path("m.onnx")).filled(task.to_json()) == task
    assert Task(None).filled(Task(None).to_json()) == Task(None)
    assert replace(task, layout="flat", mean=(1.0,)).filled(task.to_json()) == replace(task, layout="flat", mean=(1.0,))
    assert Task(None, mean=(1,)).filled(Task(None, mean=(1,)).to_json()) == Task(None, mean=(1,))


def test_the_data_of_a_job_may_be_handed_on(tmp_path: Path) -> None:
    """The test images of a job are a data set that `certify` takes."""
    data = blobs(10)
    assert isinstance(data.images, ArrayImages)
    job = asked(tmp_path).job()
    report = llcert.certify(job.network(), job.test)
    assert len(report.samples) == len(job.test)


@pytest.mark.parametrize(
    ("data", "said", "crop", "flip"),
    [
        ("cifar10", {}, 4, True),
        ("tiny-imagenet", {}, 4, True),
        ("mnist", {}, 0, False),
        ("folder/images.npz", {}, 0, False),
        ("cifar10", {"crop": 0, "flip": False}, 0, False),
        ("mnist", {"crop": 2}, 2, False),
    ],
)
def test_photographs_are_cropped_and_mirrored_unless_said(
    data: str, said: dict[str, Any], crop: int, flip: bool
) -> None:
    recipe = _augmented(Recipe(**said), data)
    assert (recipe.crop, recipe.flip) == (crop, flip)
