"""What processes of a group know of each other: a plan, a counter, who stopped, who is gone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from llcert.errors import InvalidInput, LlcertError, Stopped
from llcert.machine.process_group import ProcessGroup, join


def test_who_stops_first_tells() -> None:
    store = HashStore()
    first, second = (ProcessGroup(rank, 2, store) for rank in range(2))
    first.check()
    assert second.stop(3) == (True, 3)
    assert first.stop(2) == (False, 3)
    for ask in (first.check, first.next_number, first.wait, first.await_published):
        with pytest.raises(Stopped) as stopped:
            ask()
        assert stopped.value.code == 3


def test_nobody_leaves_work_undone_in_silence() -> None:
    store = HashStore()
    assert ProcessGroup(1, 2, store).leave(0) == 0
    ProcessGroup(0, 2, store).wait()
    assert ProcessGroup(1, 2, store).leave(3) == 3
    with pytest.raises(Stopped):
        ProcessGroup(0, 2, store).wait()
    assert ProcessGroup(0, 2, store).leave(130) == 3


def test_an_interrupt_is_one_for_all() -> None:
    store = HashStore()
    ProcessGroup(1, 2, store).stop(130)
    with pytest.raises(KeyboardInterrupt):
        ProcessGroup(0, 2, store).wait()


def test_the_first_process_says_what_to_do() -> None:
    store = HashStore()
    plan = {"dealt": [1, 2], "ahead": "x"}
    with ThreadPoolExecutor(1) as other:
        told = other.submit(ProcessGroup(1, 2, store).await_published)
        ProcessGroup(0, 2, store).publish(plan)
        assert told.result(timeout=10) == plan


@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_waits_for_a_process_that_is_gone(rank: int) -> None:
    group = ProcessGroup(rank, 2, HashStore(), patience=0.1)
    with pytest.raises(LlcertError, match=f"process {1 - rank} of 2 is gone"):
        group.await_members() if group.leads else group.await_published()


def test_a_process_that_lives_is_waited_for() -> None:
    """Of three, one has left long ago."""
    store, over = HashStore(), threading.Event()
    ProcessGroup(2, 3, store).leave()

    def live() -> None:
        while not over.wait(0.02):
            store.add("beat 1", 1)
        ProcessGroup(1, 3, store).leave()

    with ThreadPoolExecutor(1) as other:
        other.submit(live)
        threading.Timer(0.5, over.set).start()
        ProcessGroup(0, 3, store, patience=0.2).await_members()


@pytest.mark.parametrize(("said", "words"), [({}, "RANK is not set"), ({"RANK": "x"}, "did not find each other")])
def test_an_environment_that_no_torchrun_made(
    said: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **said}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=words):
        join()
