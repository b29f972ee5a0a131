"""benchmarks/training.py on a small network: it runs, and its rivals do the same work as llcert's step."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPE = """
arch = "tiny-conv"
data = "mnist"
eps = "0.3"
loss = "{loss}"
activation = "{activation}"
iterations = {iterations}
{more}
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("training")


def case(
    benchmark: ModuleType,
    folder: Path,
    *,
    loss: str = "local-lip-b",
    activation: str = "relu-theta",
    iterations: int = 2,
    more: str = "",
) -> Any:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(loss=loss, activation=activation, iterations=iterations, more=more))
    return benchmark.Case.of(str(path), 4, None, torch.device("cpu"))


@pytest.mark.parametrize("activation", ["relu-theta", "maxmin-clipped"])
def test_every_figure_is_there(benchmark: ModuleType, tmp_path: Path, activation: str) -> None:
    row = benchmark.measured(case(benchmark, tmp_path, activation=activation), 1)
    assert set(row["seconds"]) >= {benchmark.OURS, benchmark.PLAIN, benchmark.DERIVATIVES}
    assert (benchmark.SAVED in row["seconds"]) == (activation == "relu-theta")
    assert min(row["seconds"].values()) > 0
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert min(row["shares"].values()) > 0
    table = benchmark.table("tiny", {**row, "mebibytes": dict.fromkeys(row["seconds"], 1.0)})
    assert all(way in table for way in json.loads(json.dumps(row))["seconds"])


@pytest.mark.parametrize("ball", ["product", "liplt"])
def test_a_global_bound_is_timed_alone(benchmark: ModuleType, tmp_path: Path, ball: str) -> None:
    own = case(benchmark, tmp_path, loss="emma", activation="relu", iterations=1, more=f'ball = "{ball}"')
    assert set(own.ways()) == {benchmark.OURS, benchmark.PLAIN, benchmark.BOUND}
    assert benchmark.measured(own, 1)["seconds"][benchmark.BOUND] > 0


@pytest.mark.parametrize("loss", ["local-lip-b", "local-lip-g"])
def test_the_rival_minimises_the_same_loss(benchmark: ModuleType, tmp_path: Path, loss: str) -> None:
    """Its row norms are those of whole layers, so its boxes are wider: a loss a little larger, not smaller."""
    own = case(benchmark, tmp_path, loss=loss, iterations=40)
    trainer = own.trainer()
    trainer.train_step()
    images, labels = own.data.batch(torch.arange(4))
    radius = trainer.schedule.radius(1.0)
    paper = benchmark.PaperStep(own._network(), radius, 40, loss == "local-lip-g", saved=True)
    ours, theirs = float(trainer.sums[0]), float(paper(images, labels))
    assert ours * (1 - 1e-3) <= theirs <= ours * 1.2


def test_derivatives_of_torch_lead_to_the_same_weights(benchmark: ModuleType, tmp_path: Path) -> None:
    own = case(benchmark, tmp_path)
    ours, theirs = own.trainer(), own.trainer()
    ours.train_step()
    benchmark._with_derivatives_of_torch(theirs.train_step)()
    for name, leaf in ours.moved.items():
        torch.testing.assert_close(leaf.grad, theirs.moved[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", [["nothing"], ["finetune"], ["--batch", "0"], ["--device", "tpu"]])
def test_what_it_does_not_know_is_one_line(
    benchmark: ModuleType, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training.py", *words])
    with pytest.raises(SystemExit) as left:
        benchmark.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("training.py: error: ")
