"""What is free, and what counts as out of memory."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from llcert.machine import memory
from llcert.machine.memory import free_memory, out_of_memory

CPU = torch.device("cpu")
KILLED = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(KILLED),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_ran_out_is_recognised(error: BaseException) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(errno.ENOENT, "no")]
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not out_of_memory(error)


def test_what_this_torch_says_is_recognised() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)


def test_something_is_free_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_system", lambda: 6000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_memory(CPU) == 2000
    monkeypatch.setattr(memory, "_address_space", lambda: -5.0)
    assert free_memory(CPU) == 0


def _written(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    """The tightest of all groups on the way; files that nobody uses any more are as good as free."""
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    _written(tmp_path / "job", memory__max="1000", memory__current="700", memory__stat="anon 5\ninactive_file 100\n")
    _written(tmp_path / "job" / "step", memory__max="max", memory__current="700")
    assert memory._within_groups(tmp_path, own) == 400
    assert memory._within_groups(tmp_path, tmp_path / "absent") == float("inf")


def test_limits_of_the_older_control_groups_count(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/job\n3:cpu:/job\n")
    _written(
        tmp_path / "memory" / "job",
        memory__limit_in_bytes="500",
        memory__usage_in_bytes="450",
        memory__stat="total_inactive_file 20\n",
    )
    assert memory._within_groups(tmp_path, own) == 70
