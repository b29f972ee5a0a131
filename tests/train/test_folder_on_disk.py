"""The folder of a run on disks that are full or fail, beside other processes."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_runs import same
from train_folders import IDENTITY, RECIPE, STATE, TASK, complaint, listing, resumed

from llcert.errors import InvalidInput
from llcert_train.folder import open_folder
from llcert_train.metrics import Epoch


class Full:
    """A disk that takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def failing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def limited(file: Any, data: Any, *rest: Any) -> Any:
            self.room -= len(memoryview(data).cast("B"))
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data, *rest)

        return limited


class _File(io.FileIO):
    disk = Full(0)

    def write(self, data: Any) -> int:
        return self.disk.failing(io.FileIO.write)(self, data)


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From now on, files opened for writing take so many bytes in all."""

    def begin(room: int) -> None:
        real = Path.open
        _File.disk = Full(room)

        def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if "w" not in mode and "a" not in mode:
                return real(self, mode, *rest, **more)
            return io.BufferedWriter(_File(self, mode), 16)

        monkeypatch.setattr(Path, "open", opened)

    return begin


@pytest.mark.parametrize("room", [0, 1, 300, 1000, 2500])
def test_a_full_disk_under_a_checkpoint(room: int, out: Path, small_disk: Callable[[int], None]) -> None:
    folder, before = resumed(out), listing(out)
    small_disk(room)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: cannot be written \(No space left on device\)") as error:
        folder.save({**STATE, "step": 4})
    complaint(error)
    assert listing(out) == before
    assert same(folder.checkpoint(), STATE)
    folder.close()


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_under_the_metrics(room: int, out: Path, small_disk: Callable[[int], None]) -> None:
    """At most an unfinished line is left, which the next run drops."""
    folder, before = resumed(out), listing(out)
    small_disk(room)
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl: cannot be written \(No space left on device\)") as error:
        folder.append(Epoch(2, step=3))
    complaint(error)
    assert [e.epoch for e in folder.epochs()] == [0, 1]
    folder.close()
    assert listing(out).keys() | {".lock"} == before.keys() | {".lock"}


def test_a_full_disk_under_run_json(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    folder = open_folder(tmp_path / "out", resume=False, overwrite=False)
    small_disk(100)
    with pytest.raises(InvalidInput, match=r"run\.json: cannot be written \(No space left on device\)") as error:
        folder.begin(TASK, RECIPE, IDENTITY)
    complaint(error)
    assert listing(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_fails_late(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = resumed(out), listing(out)

    def failing(*arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os if name == "fsync" else Path, name, failing)
    with pytest.raises(InvalidInput, match=r"checkpoint\.pt: cannot be written \(Input/output error\)") as error:
        folder.save({**STATE, "step": 4})
    complaint(error)
    monkeypatch.undo()
    assert listing(out) == before
    folder.close()


def test_an_interrupt_while_saving_leaves_the_earlier_checkpoint(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = resumed(out), listing(out)

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save({**STATE, "step": 4})
    monkeypatch.undo()
    assert listing(out) == before
    folder.close()


WRITER = """
import resource, sys, warnings
warnings.simplefilter("error")
import torch
from pathlib import Path
from llcert.errors import InvalidInput
from llcert_train.folder import open_folder
folder = open_folder(Path(sys.argv[1]), resume=True, overwrite=False)
folder.begin(*[__import__("json").loads(a) for a in sys.argv[2:5]])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    folder.save({"step": 4, "weights": torch.zeros(100_000)})
except InvalidInput as error:
    print(error)
folder.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="a POSIX limit")
def test_a_file_the_system_does_not_let_grow(out: Path) -> None:
    before = listing(out)
    command = [sys.executable, "-c", WRITER, str(out), *map(json.dumps, (TASK, RECIPE, IDENTITY))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert line == f"{out / 'checkpoint.pt'}: cannot be written (File too large)"
    assert done.stderr == ""
    assert listing(out) == before


def test_a_second_process_is_kept_out(out: Path) -> None:
    """Whether it wants to go on or to begin anew: nothing of the first one's is touched."""
    first, before = resumed(out), listing(out)
    for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        second = open_folder(out, **how)
        with pytest.raises(InvalidInput, match="another llcert is at work in this folder") as error:
            second.begin(TASK, RECIPE, IDENTITY)
        complaint(error)
        second.close()
        assert listing(out) == before
    first.save({**STATE, "step": 4})
    first.close()
    again = resumed(out)
    assert again.checkpoint()["step"] == 4  # type: ignore[index]
    again.close()


HOLDER = """
import json, sys, time
from pathlib import Path
from llcert_train.folder import open_folder
folder = open_folder(Path(sys.argv[1]), resume=True, overwrite=False)
folder.begin(*[json.loads(a) for a in sys.argv[2:5]])
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="has no such locks")
def test_a_process_that_is_killed_lets_go(out: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(out), *map(json.dumps, (TASK, RECIPE, IDENTITY))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(InvalidInput, match="another llcert is at work"):
            resumed(out)
        process.kill()
    again = resumed(out)
    again.close()
    assert sorted(listing(out)) == ["checkpoint.pt", "metrics.jsonl", "run.json"]
