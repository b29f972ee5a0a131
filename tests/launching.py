"""Processes of one team, started as torchrun starts them, by gloo or a store on the loopback device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONG = 120
"""Seconds after which a process that hangs is given up."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="names the loopback device as Linux does")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WORLD", "LOCAL_", "MASTER_", "TORCH"))
    }
    paths = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    return {**inherited, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


@contextmanager
def members(size: int, *arguments: str, **more: str) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes of one team; those that are left at the end are killed. more: of their environment."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(**meeting, RANK=str(rank), LOCAL_RANK=str(rank), **more),
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code and what was printed, of each."""
    printed = [process.communicate(timeout=LONG) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, printed, strict=True)]


def torchrun(size: int, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """So many processes under torchrun, which ends those that are left where one fails."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-addr", "127.0.0.1"]
    return subprocess.run(
        [sys.executable, *launch, "--master-port", str(free_port()), *arguments],
        env=environment(**more),
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
