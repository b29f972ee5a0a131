"""A small network that knows its digits, as a file, and a way to run the command line on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import llcert
from llcert.cli import main
from llcert.data import load_dataset
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, Reshape, relu


@dataclass(frozen=True)
class Outcome:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of an error; fails where there is more or less than that."""
        assert self.code != 0
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


def nearest_mean() -> Network:
    """Digits by their nearest class mean, behind a ReLU layer that repeats the pixels twice."""
    data = load_dataset("digits", split="train")
    (batch,) = data.batches(range(len(data)), len(data))
    flat = batch.images.flatten(1)
    means = torch.stack([flat[batch.labels == k].mean(0) for k in range(10)])
    image = apply(Input(tuple(batch.images.shape[1:])), name="image")
    pixels = apply(Reshape((flat.shape[1],)), image)
    hidden = apply(relu(), apply(Linear(torch.eye(flat.shape[1]).repeat(2, 1)), pixels), name="hidden")
    weight = torch.cat((means, means), 1) / 2
    logits = apply(Linear(weight, -means.square().sum(1) / 2), hidden, name="logits")
    return Network(logits, metadata={"data": "digits", "eps": "0.25"})


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits.onnx"
    llcert.save(nearest_mean(), path)
    return path


@pytest.fixture(scope="session")
def nameless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in a file that names neither data nor eps."""
    path = tmp_path_factory.mktemp("models") / "nameless.onnx"
    network = nearest_mean()
    llcert.save(Network(network.output), path)
    return path
