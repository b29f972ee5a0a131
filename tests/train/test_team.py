"""Two processes that train one network, by gloo on the loopback device; one alone is a team too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import TESTS, ended, free_port, linux, members, torchrun
from torch import nn
from toy_runs import asked, same

from llcert.cli import main
from llcert.errors import InvalidInput
from llcert_train.team import Team, assembled


def lines(out: Path) -> list[dict[str, object]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_one_process_is_a_team() -> None:
    team, device = Team(), torch.device("cpu")
    module, values = nn.Linear(2, 2), torch.arange(3.0)
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.shard(5).tolist() == [0, 1, 2, 3, 4]
    assert team.share(7) == 7
    assert team.wrapped(module) is module
    assert (team.any(True, device), team.any(False, device)) == (True, False)
    assert torch.equal(team.mean(values), values)
    assert team.agreed(3, device) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [7, 8, 100])
def test_shards_are_equal_and_share_nothing(size: int, images: int) -> None:
    shards = [Team(rank, size).shard(images).tolist() for rank in range(size)]
    assert {len(s) for s in shards} == {images // size}
    every = [i for s in shards for i in s]
    assert len(set(every)) == len(every)
    assert set(every) <= set(range(images))


@pytest.mark.parametrize(("batch", "size"), [(1, 2), (63, 2), (128, 3)])
def test_a_batch_that_cannot_be_shared(batch: int, size: int) -> None:
    with pytest.raises(InvalidInput, match=f"batch {batch}: cannot be shared by {size} processes; give a multiple"):
        Team(0, size).share(batch)


def test_one_process_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if size is not None:
            monkeypatch.setenv("WORLD_SIZE", size)
        with assembled(torch.device("cpu")) as team:
            assert team == Team()
    assert not torch.distributed.is_initialized()


def test_fewer_images_than_processes() -> None:
    with pytest.raises(InvalidInput, match="2 training images cannot be shared by 3 processes"):
        Team(0, 3).shard(2)


@pytest.mark.parametrize(
    "said", [{"WORLD_SIZE": "two"}, {"WORLD_SIZE": "-2"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}]
)
def test_an_environment_that_no_torchrun_made(said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match="WORLD_SIZE") as error, assembled(torch.device("cpu")):
        pass
    assert len(str(error.value).splitlines()) == 1


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes found that all is well, and left a run that was interrupted."""
    folder = tmp_path_factory.mktemp("team")
    asked(folder)
    with members(2, str(TESTS / "team_member.py"), str(folder), str(free_port()), str(free_port())) as processes:
        for code, out, err in ended(processes):
            assert (code, out) == (0, "all is well\n"), err
    return folder


@linux
def test_two_processes_are_one(together: Path) -> None:
    """Gradients, weights, checkpoints, clocks, refusals and interruptions: see tests/team_member.py."""
    first, second = checkpoints(together / "digits")
    assert first["step"] == second["step"] >= 2 * 11
    for part in ("weights", "optimiser", "unmasked"):
        assert same(first[part], second[part])
    assert not same(first["warm"], second["warm"]), "each has the vectors of its own images"
    assert len(lines(together / "digits")) < 7, "interrupted too late to test anything"


def checkpoints(out: Path) -> list[dict[str, Any]]:
    return [torch.load(out / name, weights_only=True) for name in ("checkpoint.pt", "checkpoint.1.pt")]


@linux
def test_one_process_cannot_go_on_for_two(together: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(together / "digits"), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --resume: processes is 1 now, but was 2")


@linux
def test_torchrun_takes_a_run_to_its_end(together: Path) -> None:
    """One file, one record."""
    out = together / "digits"
    done = torchrun(2, "-m", "llcert", "train", "--out", str(out), "--resume")
    assert done.returncode == 0, done.stderr
    assert [p.relative_to(out) for p in out.rglob("*.onnx")] == [Path("model.onnx")]
    assert [p.relative_to(out) for p in out.rglob("metrics.jsonl")] == [Path("metrics.jsonl")]
    assert [line["epoch"] for line in lines(out)] == list(range(7))
    assert [p.name for p in out.glob("*.pt")] == ["finished.pt"]
    assert torch.load(out / "finished.pt", weights_only=True)["step"] == 6 * 11
    assert done.stderr.count("going on after step") == 1, "one of them speaks"
