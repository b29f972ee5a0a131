"""Networks other people trained: every file imported, or refused for a stated reason; accuracy as published."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_text import operators

from llcert.api import load
from llcert.data import Dataset, load_dataset
from llcert.errors import UnsupportedModel
from llcert.frontend.adapt import adapt
from llcert.frontend.comparison import compared

SHARED = Path(__file__).parents[3] / "shared" / "data"
REFUSED = {"collins_rul_cnn/NN_rul_small_window_20.onnx": "one output alone"}
IMAGES = 5


def index() -> list[dict[str, Any]]:
    path = SHARED / "models" / "index.json"
    return json.loads(path.read_text()) if path.is_file() else []


@functools.cache
def images_of(name: str) -> Dataset:
    return load_dataset(name, root=SHARED)


pytestmark = pytest.mark.skipif(not index(), reason="the shared data folder is not here")


@pytest.mark.parametrize("entry", index(), ids=lambda e: e["file"])
def test_a_file_is_imported_or_refused_for_a_stated_reason(entry: dict[str, Any]) -> None:
    path = SHARED / "models" / entry["file"]
    if entry["file"] in REFUSED:
        with pytest.raises(UnsupportedModel, match=REFUSED[entry["file"]]):
            load(path)
        return
    network = load(path)
    dataset = images_of(entry["data"])
    (batch,) = dataset.batches(range(IMAGES), IMAGES)
    adapted, _ = adapt(network, dataset.image_shape, layout=entry["layout"], mean=entry["mean"], std=entry["std"])
    agreement = compared(adapted, batch.images)
    assert agreement.inputs == IMAGES
    assert agreement.difference < 1e-5


def test_few_files_are_refused() -> None:
    assert len(REFUSED) <= len(index()) / 10


@pytest.mark.parametrize("name", ["cifar_6c2f", "cifar_small", "mnist_small"])
def test_thresholds_of_the_reference_networks_are_found(name: str) -> None:
    found = operators(load(SHARED / "reference" / f"{name}_relu_theta.onnx")).split()
    assert "ReLU" not in found
    assert "Clamp" not in found
    assert found.count("ReLU-theta") == found.count("Conv") + found.count("Linear") - 1


def test_clipped_maxmin_of_the_reference_network_is_found() -> None:
    found = operators(load(SHARED / "reference" / "mnist_small_maxmin.onnx"))
    assert found == "Conv clipped MaxMin Conv clipped MaxMin Reshape Linear clipped MaxMin Linear"


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in index() if e["clean_accuracy_10k"]], ids=lambda e: e["file"])
def test_clean_accuracy_is_the_published_one(entry: dict[str, Any]) -> None:
    dataset = images_of(entry["data"])
    network, _ = adapt(
        load(SHARED / "models" / entry["file"]),
        dataset.image_shape,
        layout=entry["layout"],
        mean=entry["mean"],
        std=entry["std"],
    )
    with torch.no_grad():
        right = sum(
            int((network(batch.images).argmax(1) == batch.labels).sum())
            for batch in dataset.batches(range(len(dataset)), 500)
        )
    assert right / len(dataset) == pytest.approx(entry["clean_accuracy_10k"], abs=1e-3)
