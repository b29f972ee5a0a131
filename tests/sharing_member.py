"""One of several processes that certify together, started by tests/cli/test_sharing.py; arguments are those of llcert.

Every batch takes a moment, so that each process gets some, and a line `RANK NUMBER` goes to the file $DEALT where that
is given. $FAULT is `RANK NAME`: what happens to that process at its second batch.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from llcert.certification import BatchResult, Contradiction
from llcert.cli import main
from llcert.errors import InvalidInput
from llcert.runs.prepare import Certification

RANK = os.environ.get("RANK", "0")
computed = Certification.result
seen: list[int] = []


def fault() -> None:
    """What the environment wants to happen to this process."""
    rank, _, name = os.environ.get("FAULT", "").partition(" ")
    if rank != RANK or len(seen) != 2:
        return
    match name:
        case "contradiction":
            raise Contradiction(7, 3, torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
        case "memory":
            raise InvalidInput("image 7 alone does not fit into the memory of cpu")
        case "bug":
            raise KeyError("oops")
        case "interrupt":
            signal.raise_signal(signal.SIGINT)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def result(job: Certification, number: int, *, checked: int = 0) -> BatchResult:
    seen.append(number)
    fault()
    if "DEALT" in os.environ:
        with Path(os.environ["DEALT"]).open("a") as file:
            file.write(f"{RANK} {number} {int(number == checked)}\n")
    time.sleep(0.1)
    return computed(job, number, checked=checked)


if __name__ == "__main__":
    Certification.result = result  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
