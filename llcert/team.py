"""The processes that share the batches of one run; one alone is a team too.

They talk through the store by which torchrun lets processes find each other: a few short texts and counters. Every wait
looks at whether someone has stopped, or is gone.
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
from llcert.processes import team_size

_PLAN, _DEALT, _STOP = "plan", "dealt", "stop"
_INTERRUPTED = 130
_BEAT = 5.0
_POLL = 0.05
_LINGER = 5.0
_MEETING = timedelta(minutes=5)


@dataclass
class Team:
    """rank: of this process, from 0. size: how many there are. store: what they have in common.

    patience: seconds of silence after which a process counts as gone.
    """

    rank: int = 0
    size: int = 1
    store: Store = field(default_factory=HashStore)
    patience: float = 300.0
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _pulse: _Pulse | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def tell(self, plan: Mapping[str, Any]) -> None:
        """Says what is to be done, as plain JSON values, to those who wait in `told`."""
        with _reaching():
            self.store.set(_PLAN, json.dumps(plan))

    def told(self) -> dict[str, Any]:
        """What the first process says is to be done."""
        while not self._knows(_PLAN):
            self.wait()
        with _reaching():
            plan: dict[str, Any] = json.loads(self.store.get(_PLAN))
        return plan

    def deal(self) -> int:
        """0, 1, 2, ...: each number to one process. Raises as `check` does."""
        self.check()
        with _reaching():
            return self.store.add(_DEALT, 1) - 1

    def check(self) -> None:
        """Raises Stopped where another process has stopped, KeyboardInterrupt where the user stopped it."""
        if self._knows(_STOP):
            code = int(self.store.get(_STOP).decode().split()[0])
            raise KeyboardInterrupt if code == _INTERRUPTED else Stopped(code)

    def wait(self) -> None:
        """Lets a moment pass. Raises as `check` does, and LlcertError where a process has been silent for too long."""
        self.check()
        for rank in range(1, self.size) if self.leads else (0,):
            if not self._knows(_left(rank)) and self._silence(rank) > self.patience:
                raise LlcertError(
                    f"process {rank} of {self.size} is gone: it was killed, or its machine is; --resume goes on"
                )
        time.sleep(_POLL)

    def _silence(self, rank: int) -> float:
        """Seconds since a process was last heard of, as far as this one has listened."""
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
        """Makes the others stop with this exit code; whether nobody has done so before, and the code of who was first.

        Who is first tells the user; a process that reaches nobody any more is the first.
        """
        mine = f"{code} {self.rank}"
        try:
            first = self.store.compare_set(_STOP, "", mine).decode()
        except DistError:
            first = mine
        return first == mine, int(first.split()[0])

    def disband(self) -> None:
        """Returns once the others are done. Raises as `wait` does."""
        while not self._deserted():
            self.wait()

    def _deserted(self) -> bool:
        """Whether all but the first process have left."""
        return all(self._knows(_left(rank)) for rank in range(1, self.size))

    def part(self, code: int = 0) -> int:
        """The last thing a process does: stops the others where its exit code is not 0; the exit code of the team.

        The first process lingers a little, so that the others hear why it stopped.
        """
        if self.size == 1:
            return code
        if self._pulse is not None:
            self._pulse.end()
            # torchrun may end what is left now: the exit code is settled
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if code:
            _, code = self.stop(code)
        end = time.monotonic() + _LINGER
        with suppress(LlcertError), _reaching():
            self.store.set(_left(self.rank), "")
            while self.leads and not self._deserted() and time.monotonic() < end:
                time.sleep(_POLL)
        return code


class _Pulse(threading.Thread):
    """Says again and again that a process is alive."""

    def __init__(self, store: Store, rank: int) -> None:
        super().__init__(daemon=True)
        self._store, self._name, self._over = store, _beat(rank), threading.Event()

    def run(self) -> None:
        with suppress(DistError):
            while not self._over.is_set():
                self._store.add(self._name, 1)
                self._over.wait(_BEAT)

    def end(self) -> None:
        """No more of it; the thread is over, or dies with the process."""
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
        raise LlcertError("the first process of the team is not to be reached any more; --resume goes on") from error


def meet() -> Team:
    """The team that torchrun started, or this process alone. SIGTERM, by which torchrun ends those that are left where
    one fails, then interrupts like Ctrl-C.

    Raises InvalidInput where the environment makes no sense, LlcertError where the processes do not find each other.
    """
    size = team_size()
    if size < 2:
        return Team()
    try:
        store, rank, size = next(rendezvous("env://", timeout=_MEETING))
    except (DistError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"the {size} processes did not find each other: {str(error).splitlines()[0]}") from error
    store = PrefixStore("llcert", store)
    pulse = _Pulse(store, rank)
    pulse.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return Team(rank, size, store, _pulse=pulse)
