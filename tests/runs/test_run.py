"""A run is an iterator: what it has yielded is kept, whoever stops asking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llcert.api import images_and_labels
from llcert.certification import BatchResult, Contradiction
from llcert.errors import InvalidInput, NumericalError
from llcert.ir import Input, Network, apply
from llcert.machine.process_group import ProcessGroup
from llcert.ops import Linear, relu
from llcert.options import Options
from llcert.runs.prepare import Certification, prepare
from llcert.runs.run import Assignment, Run, continued, help_out
from llcert.runs.run_directory import BATCHES, open_directory

OPTIONS = Options(eps="0.1", batch_size=2, assurance="estimate", stages=("global",), self_check=False)


@pytest.fixture(scope="module")
def certification() -> Certification:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*s, generator=generator) for s in ((6, 4), (3, 6)))
    network = Network(apply(Linear(second), apply(relu(), apply(Linear(first), apply(Input((4,)))))))
    images = torch.rand(7, 4, generator=generator)
    return prepare(network, OPTIONS, dataset=images_and_labels(images, torch.arange(7) % 3))


def indices(results: list[BatchResult]) -> list[int]:
    return [sample.index for result in results for sample in result.samples]


def run_in(path: Path, certification: Certification) -> Run:
    return Run(certification, OPTIONS, directory=open_directory(path, resume=True, overwrite=False))


def test_what_was_yielded_is_kept_and_yielded_again(certification: Certification, tmp_path: Path) -> None:
    with run_in(tmp_path, certification) as run:
        results = run.results()
        first = [next(results), next(results)]
        assert [s.index for s in run.report.samples] == indices(first) == [0, 1, 2, 3]
    assert len((tmp_path / BATCHES).read_text().splitlines()) == 2
    with run_in(tmp_path, certification) as run:
        assert indices(list(run.results())) == list(range(7))
        run.write_summary()
    assert (tmp_path / "summary.json").exists()
    assert run.report.complete


def test_without_a_directory_nothing_is_written(
    certification: Certification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Run(certification, OPTIONS) as run:
        assert indices(list(run.results())) == list(range(7))
        run.write_summary()
    assert not list(tmp_path.iterdir())


def test_a_contradiction_names_the_file_that_shows_it(
    certification: Certification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradicting(self: Certification, number: int, *, checked: int = 0) -> BatchResult:
        raise Contradiction(5, 1, torch.zeros(4), torch.ones(4))

    monkeypatch.setattr(Certification, "result", contradicting)
    with run_in(tmp_path, certification) as run, pytest.raises(NumericalError, match=r"contradiction_5\.npz"):
        list(run.results())
    assert (tmp_path / "contradiction_5.npz").exists()


def test_the_plan_reaches_the_other_processes(certification: Certification, tmp_path: Path) -> None:
    group = ProcessGroup(0, 2)
    with Run(
        certification, replace(OPTIONS, batch_size=None), group, open_directory(tmp_path, resume=True, overwrite=False)
    ) as run:
        next(run.results())
    plan = Assignment.awaited(ProcessGroup(1, 2, group.store))
    assert plan.options == OPTIONS
    assert plan.open == (0, 1, 2, 3)
    other = replace(certification, resolved={**certification.resolved, "model_sha256": "another"})
    with pytest.raises(InvalidInput, match="model_sha256 is another for process 1"):
        help_out(other, plan, ProcessGroup(1, 2, group.store), tmp_path)


def test_a_run_that_goes_on_keeps_its_options_and_its_batches(certification: Certification, tmp_path: Path) -> None:
    with run_in(tmp_path, certification) as run:
        next(run.results())
    directory = open_directory(tmp_path, resume=True, overwrite=False)
    assert continued(Options(eps="0.2"), directory) == replace(OPTIONS, eps="0.2")
    assert continued(Options(eps="0.2"), None) == Options(eps="0.2")
