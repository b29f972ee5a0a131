"""Checkpoints: what a run goes on with, and what is made of files that others broke."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import Asked, asked, same
from train_folders import IDENTITY, RECIPE, STATE, TASK, complaint, listing, resumed

from llcert.errors import InvalidInput
from llcert_train.folder import open_folder
from llcert_train.metrics import Epoch


def test_a_checkpoint_cut_short(out: Path) -> None:
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(0)
    for length in (*range(0, 70, 7), *(chance.randrange(len(whole)) for _ in range(60)), len(whole) - 1):
        (out / "checkpoint.pt").write_bytes(whole[:length])
        refused(out)


def refused(path: Path) -> str:
    folder = open_folder(path, resume=True, overwrite=False)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: .*--overwrite") as error:
        folder.checkpoint()
    return complaint(error)


def test_a_checkpoint_of_random_bytes(out: Path) -> None:
    chance = random.Random(1)
    for length in (0, 1, 4, 100, 5000):
        (out / "checkpoint.pt").write_bytes(chance.randbytes(length))
        refused(out)
        (out / "checkpoint.pt").write_bytes(b"PK\x03\x04" + chance.randbytes(length))
        refused(out)


def test_a_checkpoint_with_a_bit_turned_is_refused_or_the_same(out: Path) -> None:
    """Wherever the bit is: in a weight, in the pickle, in the zip file's own tables."""
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(2)
    answers = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        answers.append(the_same_or_refused(out, bytes(content)))
    assert answers.count("refused") > 150


def the_same_or_refused(path: Path, content: bytes) -> str:
    """What becomes of a checkpoint of these bytes."""
    (path / "checkpoint.pt").write_bytes(content)
    folder = open_folder(path, resume=True, overwrite=False)
    try:
        state = folder.checkpoint()
    except InvalidInput as error:
        message = str(error)
    else:
        assert same(state, STATE)
        return "the same"
    assert len(message.splitlines()) == 1
    return "refused"


def test_a_checkpoint_with_bytes_put_in_or_left_out(out: Path) -> None:
    whole = (out / "checkpoint.pt").read_bytes()
    chance = random.Random(3)
    for number in range(60):
        place = chance.randrange(len(whole))
        added = chance.randbytes(chance.randrange(1, 50)) if number % 2 else b""
        the_same_or_refused(out, whole[:place] + added + whole[place + chance.randrange(1, 50) :])


class Mischief:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


class Evaluated(Mischief):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').mkdir({str(self.trace)!r})",)


def in_a_zip(content: bytes, path: Path) -> None:
    """A checkpoint whose pickle is replaced."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)


@pytest.mark.parametrize("kind", [Mischief, Evaluated])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_checkpoint_is_never_run(kind: type[Mischief], protocol: int, out: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    values: list[Any] = [kind(trace), {"step": 3, "weights": kind(trace)}, [kind(trace)]]
    pickle.loads(pickle.dumps(values[0]))  # it would do what it says
    assert trace.is_dir()
    trace.rmdir()
    for value in values:
        content = pickle.dumps(value, protocol)
        (out / "checkpoint.pt").write_bytes(content)
        refused(out)
        in_a_zip(content, out / "checkpoint.pt")
        refused(out)
        torch.save(value, out / "checkpoint.pt", pickle_protocol=protocol)
        refused(out)
        torch.save(value, out / "checkpoint.pt", _use_new_zipfile_serialization=False)
        refused(out)
        assert not trace.exists()


def test_other_files_in_place_of_a_checkpoint(out: Path) -> None:
    path = out / "checkpoint.pt"
    np.savez(out / "images.npz", x=np.zeros(3))
    (out / "images.npz").rename(path)
    refused(out)
    path.unlink()
    with zipfile.ZipFile(path, "w"):
        pass
    refused(out)
    path.unlink()
    path.mkdir()
    refused(out)


@pytest.mark.parametrize(
    "state", [[], None, 5, "text", torch.zeros(3), {}, {"step": None}, {"step": "x"}, {"step": -1}, {"step": True}]
)
def test_a_checkpoint_of_something_else(state: Any, out: Path) -> None:
    torch.save(state, out / "checkpoint.pt")
    refused(out)


def changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """What can be wrong with a state although it can be read."""
    numbers = ("epochs", "minutes", "plan", "phase", "look", "seconds", "epoch_began")
    keys = (*numbers, "sums", "weights", "optimiser", "unmasked", "warm")
    values: dict[str, Any] = {"a text": "x", "a list": [1, 2], "a matrix": torch.zeros(7, 7), "an object": {"a": 1}}
    found: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for key in keys:
        found[f"without {key}"] = lambda s, key=key: s.pop(key)
        for words, value in values.items():
            found[f"{key}: {words}"] = lambda s, key=key, value=value: s.update({key: value})
    found["a weight is missing"] = lambda s: s["weights"].popitem()
    found["a weight is smaller"] = lambda s: s["weights"].update({k: v[:1] for k, v in s["weights"].items()})
    found["a vector is missing"] = lambda s: s["unmasked"].pop()
    found["a warm start is missing"] = lambda s: s["warm"]["vectors"].pop()
    found["fewer warm starts"] = lambda s: s["warm"].update(vectors=[v[:5] for v in s["warm"]["vectors"]])
    found["a smaller moment"] = lambda s: s["optimiser"]["state"][0].update(exp_avg=torch.zeros(1))
    found["a moment of nothing"] = lambda s: s["optimiser"]["state"].update({999: {"exp_avg": torch.zeros(1)}})
    return found


@pytest.mark.parametrize("kind", changes())
def test_a_state_that_is_not_the_runs(kind: str, stopped: tuple[Asked, Path]) -> None:
    question, path = stopped
    folder = open_folder(path, resume=True, overwrite=False)
    state = folder.checkpoint()
    assert state is not None
    changed = dict(state)
    changes()[kind](changed)
    with pytest.raises(InvalidInput, match="--overwrite") as error:
        question.job().trainer.restore(changed)
    complaint(error)


def test_the_checkpoint_of_another_run(stopped: tuple[Asked, Path], tmp_path: Path) -> None:
    """Of another network, put into the folder of this one."""
    question, path = stopped
    other = asked(tmp_path, new=True, arch="mlp")
    other.begun(tmp_path / "out").go(1)
    content = (path / "checkpoint.pt").read_bytes()
    (path / "checkpoint.pt").write_bytes((tmp_path / "out" / "checkpoint.pt").read_bytes())
    with pytest.raises(InvalidInput, match="--overwrite") as error:
        question.begun(path, resume=True)
    complaint(error)
    (path / "checkpoint.pt").write_bytes(content)
    run = question.begun(path, resume=True)
    assert run.job.trainer.step == 3
    run.folder.close()


def test_each_process_has_its_own_checkpoint(out: Path) -> None:
    second = open_folder(out, resume=True, overwrite=False, rank=1)
    second.begin(TASK, RECIPE, IDENTITY)
    mine = {**STATE, "weights": torch.ones(3), "warm": {"seen": torch.ones(2)}}
    second.save(mine)
    second.append(Epoch(9, step=18))
    assert same(second.checkpoint(), mine)
    assert [e.epoch for e in second.epochs()] == [0, 1]
    assert same(resumed_state(out), STATE)
    assert (out / "checkpoint.1.pt").exists()


def resumed_state(path: Path) -> Any:
    folder = resumed(path)
    state = folder.checkpoint()
    folder.close()
    return state


def test_a_process_that_was_killed_before_it_saved_takes_the_first_ones_state(out: Path) -> None:
    """Its warm starts are its own, or none; whatever else it had is older, or newer, than the first one's."""
    second = open_folder(out, resume=True, overwrite=False, rank=1)
    assert same(second.checkpoint(), {**STATE, "warm": None})
    warm = {"seen": torch.ones(2)}
    for step in (2, 4):
        second.save({"step": step, "weights": torch.ones(3), "warm": warm})
        assert same(second.checkpoint(), {**STATE, "warm": warm})
    (out / "checkpoint.pt").unlink()
    assert second.checkpoint() is None


def test_a_checkpoint_is_replaced_at_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one lies on disk under another name before the old one goes."""
    folder, seen = resumed(out), []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        seen.append((torch.load(self, weights_only=True)["step"], torch.load(target, weights_only=True)["step"]))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    folder.save({**STATE, "step": 4})
    assert seen == [(4, 3)]
    monkeypatch.undo()
    folder.close()
    assert sorted(listing(out)) == ["checkpoint.pt", "metrics.jsonl", "run.json"]
