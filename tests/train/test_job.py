"""From what was asked to a run: defaults, refusals, splits, and what the exported file carries."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import Asked, asked, prepared, same, small_network
from toys import blobs
from train_jobs import MODELS, data_file, refused, saved

import llcert
from llcert.certification import Settings
from llcert.data import Dataset, load_dataset
from llcert.data.dataset import ArrayImages
from llcert.frontend.adapt import adapt
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, Reshape, Transpose, relu
from llcert_train import zoo
from llcert_train.job import Job, _augmented
from llcert_train.settings import Recipe
from llcert_train.task import Task


def pixels_of(dataset: Dataset) -> list[bytes]:
    """The images of a data set as bytes."""
    (batch,) = dataset.batches(range(len(dataset)), len(dataset))
    return [image.numpy().tobytes() for image in (batch.images * 255).round().to(torch.uint8).flatten(1)]


def trained_on(job: Job) -> list[bytes]:
    images, _ = job.trainer.data.batch(torch.arange(len(job.trainer.data)))
    return [image.numpy().tobytes() for image in (images * 255).round().to(torch.uint8).flatten(1)]


def watched(job: Job) -> list[bytes]:
    return [image.numpy().tobytes() for image in (job.watch.images * 255).round().to(torch.uint8).flatten(1)]


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
    task = Task(Path("m.onnx"), "test.npz", "root", (0.5, 1.0), (1.0,), "NCHW", "cpu", "8", ("global",), "estimate")
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
