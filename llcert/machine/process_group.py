"""The processes that certify the batches of one run together, as torchrun starts them; one process is a group of one.

They communicate through torchrun's key-value store (the one of its rendezvous) and nothing else: a plan published by
rank 0, a shared counter, an exit code, and a heartbeat of every process. There are no collectives: nothing is reduced,
and a collective would block where a process is gone (docs/decisions/sharing.md).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, HashStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from llcert.errors import InvalidInput, LlcertError, Stopped
from llcert.machine.environment import group_size

_PLAN, _TAKEN, _STOP = "plan", "taken", "stop"
_INTERRUPTED = 130
_BEAT = 5.0
_POLL = 0.05
_LINGER = 5.0
_MEETING = timedelta(minutes=5)


@dataclass
class ProcessGroup:
    """The group as one of its processes sees it.

    rank: of this process, from 0. size: number of processes. store: the key-value store that they share.

    patience: seconds without a heartbeat after which a process counts as gone.
    """

    rank: int = 0
    size: int = 1
    store: Store = field(default_factory=HashStore)
    patience: float = 300.0
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _heartbeat: _Heartbeat | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes all files and prints."""
        return self.rank == 0

    def publish(self, plan: Mapping[str, Any]) -> None:
        """Gives the plan of the run, of plain JSON values, to the processes that wait in `await_published`."""
        with _reaching():
            self.store.set(_PLAN, json.dumps(plan))

    def await_published(self) -> dict[str, Any]:
        """The plan that rank 0 publishes, once it has. Raises as `wait` does."""
        while not self._knows(_PLAN):
            self.wait()
        with _reaching():
            plan: dict[str, Any] = json.loads(self.store.get(_PLAN))
        return plan

    def next_number(self) -> int:
        """The next of the numbers 0, 1, 2, ... of a counter that the group shares: no two processes get the same one.

        Raises as `check` does.
        """
        self.check()
        with _reaching():
            return self.store.add(_TAKEN, 1) - 1

    def check(self) -> None:
        """Raises Stopped where another process has failed, KeyboardInterrupt where the user interrupted it."""
        if self._knows(_STOP):
            code = int(self.store.get(_STOP).decode().split()[0])
            raise KeyboardInterrupt if code == _INTERRUPTED else Stopped(code)

    def wait(self) -> None:
        """Sleeps 0.05 s. Raises as `check` does, and LlcertError where a process has had no heartbeat for too long."""
        self.check()
        for rank in range(1, self.size) if self.leads else (0,):
            if not self._knows(_left(rank)) and self._silence(rank) > self.patience:
                raise LlcertError(
                    f"process {rank} of {self.size} is gone: it was killed, or its machine is; --resume goes on"
                )
        time.sleep(_POLL)

    def _silence(self, rank: int) -> float:
        """Seconds since the heartbeat of a process last changed, as seen from here."""
        with _reaching():
            count = self.store.add(_beat(rank), 0)
        before = self._heard.get(rank)
        if before is None or before[0] != count:
            self._heard[rank] = (count, time.monotonic())
            return 0.0
        return time.monotonic() - before[1]

    def _knows(self, key: str) -> bool:
        with _reaching():
            return self.store.check([key])

    def stop(self, code: int) -> tuple[bool, int]:
        """Ends the group with this exit code, unless it has one: whether this process is the first to stop, and the
        exit code of the first.

        Only the first one prints its error. A process that cannot reach the store counts as the first.
        """
        mine = f"{code} {self.rank}"
        try:
            first = self.store.compare_set(_STOP, "", mine).decode()
        except DistError:
            first = mine
        return first == mine, int(first.split()[0])

    def await_members(self) -> None:
        """Returns once all other processes have left. Raises as `wait` does."""
        while not self._alone():
            self.wait()

    def _alone(self) -> bool:
        """Whether every process but rank 0 has left."""
        return all(self._knows(_left(rank)) for rank in range(1, self.size))

    def leave(self, code: int = 0) -> int:
        """The exit code of the group, as a process ends with `code` of its own: one that is not 0 stops the others.

        Rank 0, which holds the store, stays up to 5 s so that the others can still read why it stopped.
        """
        if self.size == 1:
            return code
        if self._heartbeat is not None:
            self._heartbeat.end()
            # torchrun may end what is left now: the exit code is settled
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if code:
            _, code = self.stop(code)
        end = time.monotonic() + _LINGER
        with suppress(LlcertError), _reaching():
            self.store.set(_left(self.rank), "")
            while self.leads and not self._alone() and time.monotonic() < end:
                time.sleep(_POLL)
        return code


class _Heartbeat(threading.Thread):
    """A thread that increments the counter of its process every 5 s."""

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__(daemon=True)
        self._store, self._name, self._over = store, _beat(rank), threading.Event()

    def run(self) -> None:
        with suppress(DistError):
            while not self._over.is_set():
                self._store.add(self._name, 1)
                self._over.wait(_BEAT)

    def end(self) -> None:
        """Ends the thread, at the latest with the process."""
        self._over.set()
        self.join(timeout=_BEAT)


def _beat(rank: int) -> str:
    return f"beat {rank}"


def _left(rank: int) -> str:
    return f"left {rank}"


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except DistError as error:
        raise LlcertError("the first process of the group cannot be reached any more; --resume goes on") from error


def join() -> ProcessGroup:
    """The group that torchrun started, or this process alone. In a group SIGTERM, by which torchrun ends the processes
    that are left where one fails, interrupts like Ctrl-C.

    Raises InvalidInput where the environment makes no sense, LlcertError where the processes do not find each other.
    """
    size = group_size()
    if size < 2:
        return ProcessGroup()
    try:
        store, rank, size = next(rendezvous("env://", timeout=_MEETING))
    except (DistError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"the {size} processes did not find each other: {str(error).splitlines()[0]}") from error
    store = PrefixStore("llcert", store)
    heartbeat = _Heartbeat(store, rank)
    heartbeat.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return ProcessGroup(rank, size, store, _heartbeat=heartbeat)
