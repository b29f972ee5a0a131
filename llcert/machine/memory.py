"""Free memory of the host and of GPUs, and the errors that say that it has run out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from llcert.machine.environment import local_size

_UNKNOWN = 2 << 30
_SHARE = 0.25
_PLENTY = 1 << 29
"""Images that are computed together take at most this share of the free memory, and at most so many bytes."""

_FULL = ("allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc", "create a primitive")
"""What torch and the libraries below it say, on the host and on a GPU, where they raise a plain RuntimeError; the last
is oneDNN's, which has no other words for it."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, as far as this process may use them; a careful guess where nothing says.

    On a GPU: what the driver has left, and what torch holds without using it. On the host: what the system has left,
    within the limits of the control groups and of the address space; of that this process's part, where torchrun
    started several on the machine.
    """
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    return max(int(min(_system(), _within_groups(), _address_space())), 0) // local_size()


def at_once(each: int, device: torch.device) -> int:
    """How many images to compute together, at least one. each: bytes that one takes."""
    return max(1, int(min(_SHARE * free_memory(device), _PLENTY) // max(each, 1)))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, has run out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)


def release(device: torch.device) -> None:
    """Gives back what torch holds of a GPU's memory without using it, in pieces that may not fit what is asked next."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _system() -> int:
    """Bytes that the system has left."""
    found = _field(Path("/proc/meminfo"), "MemAvailable:")
    if found is not None:
        return 1024 * found
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _address_space() -> float:
    """Bytes left of what `ulimit -v` allows."""
    try:
        import resource  # not everywhere
    except ImportError:
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _field(Path("/proc/self/status"), "VmSize:")
    return float("inf") if limit == resource.RLIM_INFINITY else limit - 1024 * (used or 0)


def _within_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes left within the tightest limit of the control groups this process is in, as in a container or a job."""
    return min((_left(folder) for folder in _groups(root, own)), default=float("inf"))


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the memory groups, from the innermost outwards, of either version of control groups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if kinds in ("", "memory"):
            top = root / kinds
            inner = top / path.lstrip("/")
            yield inner
            yield from (p for p in inner.parents if p.is_relative_to(top))


def _left(group: Path) -> float:
    """Bytes left in one group; what it holds of files that nobody uses any more is given back when needed."""
    for limit, usage, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = (int((group / name).read_text()) for name in (limit, usage))
        except (OSError, ValueError):  # no such group, or no limit: "max"
            continue
        return most - used + (_field(group / "memory.stat", idle) or 0)
    return float("inf")


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at the start of a line; None where there is none."""
    try:
        words = (line.split() for line in path.read_text().splitlines())
        return next(int(found[1]) for found in words if found[:1] == [name])
    except (OSError, StopIteration, ValueError, IndexError):
        return None
