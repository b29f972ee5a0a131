"""Surgery on imported networks: what it cannot be done to, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import Asked, asked, prepared
from train_jobs import MODELS, data_file, refused, saved

import llcert
from llcert.ir import Input, Network, apply
from llcert.ops import Clamp, Linear, Reshape, Tanh
from llcert_train.settings import Recipe
from llcert_train.task import Task


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
