"""The committed networks: self-contained, described by their metadata, and as accurate as their cards say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import llcert
from llcert.certification import Finding, Stage, Verdict
from llcert.certification.batch import Batch, BoundsSoFar
from llcert.data import load_dataset
from llcert.options import Options
from llcert.reporting import Tally
from llcert.runs.prepare import prepare

MODELS = Path(__file__).parents[1] / "models"
DIGITS = ("digits", "0.5", (1, 8, 8))
ABOUT = {
    "cifar10_4c3f_relu": ("cifar10", "36/255", (3, 32, 32)),
    "digits_maxmin_clipped": DIGITS,
    "digits_relu": DIGITS,
    "digits_relu_theta": DIGITS,
    "digits_residual_bn": DIGITS,
    "mnist_mlp_maxmin": ("mnist", "1.58", (1, 28, 28)),
}
"""Data, eps and input shape of every committed network."""
NAMES = list(ABOUT)
IN_PARTS = {"cifar10_4c3f_relu"}
"""Networks of which only the first test images were asked about by all stages."""


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest) -> Path:
    return MODELS / f"{request.param}.onnx"


def quoted(path: Path, figure: str) -> float:
    """A percentage from the table of the card beside the model."""
    found = re.search(rf"^\| {figure} \| ([0-9.]+) \|$", path.with_suffix(".md").read_text(encoding="utf-8"), re.M)
    assert found, f"{path.stem}.md has no line for {figure}"
    return float(found[1])


def test_every_model_has_a_test_and_a_card() -> None:
    assert sorted(file.stem for file in MODELS.glob("*.onnx")) == NAMES
    assert sorted(file.stem for file in MODELS.glob("*.md") if file.stem != "README") == NAMES


def test_metadata_and_signature(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    data, eps, expected = ABOUT[path.stem]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"llcert.data": data, "llcert.eps": eps}
    assert 17 <= max(entry.version for entry in model.opset_import) <= 20
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    batch, *shape = image.type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert tuple(size.dim_value for size in shape) == expected


def test_nothing_lies_outside_the_file(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    # exporters note the source files of the exporting machine
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_batch_norm_stays_a_node_of_its_own() -> None:
    kinds = Counter(node.op_type for node in onnx.load(MODELS / "digits_residual_bn.onnx").graph.node)
    assert kinds["BatchNormalization"] == kinds["Conv"] == 6
    assert kinds["Add"] == 2


def test_clean_accuracy_is_the_cards(path: Path, request: pytest.FixtureRequest) -> None:
    name = ABOUT[path.stem][0]
    root = None if name == "digits" else request.getfixturevalue("shared_data")
    data = load_dataset(name, split="test", root=root)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = 0
    for batch in data.batches(range(len(data)), 128):
        (logits,) = session.run(["logits"], {"image": batch.images.float().numpy()})
        right += int((np.asarray(logits).argmax(axis=1) == batch.labels.numpy()).sum())
    assert 100 * right / len(data) == pytest.approx(quoted(path, "clean"), abs=0.1)


def test_cards_are_consistent(path: Path) -> None:
    assert quoted(path, "certified, global") <= quoted(path, "PGD \\(paper\\)") <= quoted(path, "clean")
    if path.stem not in IN_PARTS:
        names = ("certified, global", "certified, global and local", "attack", "attack, in the pixel range", "clean")
        figures = [quoted(path, name) for name in names]
        assert figures == sorted(figures)
        assert quoted(path, "attack") <= quoted(path, "PGD \\(paper\\)")


@pytest.mark.parametrize(
    ("name", "samples", "most"),
    [("digits_relu_theta", 360, 8), ("digits_maxmin_clipped", 200, 18), ("mnist_mlp_maxmin", 100, 3)],
)
def test_little_stays_undecided(name: str, samples: int, most: int, request: pytest.FixtureRequest) -> None:
    """And what is called broken is broken for onnxruntime, on the file, in the ball."""
    data, eps, _ = ABOUT[name]
    root = None if data == "digits" else request.getfixturevalue("shared_data")
    path, dataset = MODELS / f"{name}.onnx", load_dataset(data, root=root)
    job = prepare(llcert.load(path), Options(samples=str(samples)), dataset=dataset)
    tally, found = Tally(job.subject), list[tuple[Tensor, Tensor, Tensor]]()
    stages = tuple(_Overheard(s, found) if s.verdict is Verdict.ATTACKED else s for s in job.certifier.stages)
    for result in replace(job, certifier=replace(job.certifier, stages=stages)).results():
        tally.add(result)
    report = tally.report()
    assert report.count(Verdict.UNDECIDED) <= most
    images, labels, points = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert len(images) == report.count(Verdict.ATTACKED) > 0
    assert (torch.linalg.vector_norm((points.double() - images.double()).flatten(1), dim=1) <= float(eps)).all()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": points.float().numpy()})
    assert (np.asarray(logits).argmax(axis=1) != labels.numpy()).all()
    pictures = ((points >= 0) & (points <= 1)).flatten(1).all(1)
    assert int(pictures.sum()) == report.attacked(in_range=True)


@dataclass(frozen=True)
class _Overheard:
    """A stage, and a list of the images that it broke, their labels, and where."""

    stage: Stage
    found: list[tuple[Tensor, Tensor, Tensor]]

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        finding = self.stage(batch, so_far)
        assert finding.counterexample is not None
        broken = batch.select(finding.decided)
        self.found.append((broken.images, broken.labels, finding.counterexample[finding.decided]))
        return finding
