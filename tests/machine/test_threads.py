"""How many threads a process uses."""

from __future__ import annotations

import pytest
import torch

from llcert.machine.threads import own_threads, threads_for


def test_small_networks_run_on_one_thread() -> None:
    assert threads_for(1000, 8) == 1
    assert threads_for(1 << 20, 8) == 8


def test_threads_are_shared_where_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert own_threads() == 6
    for size, threads in (("4", 1), ("3", 2), ("12", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
        assert own_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert own_threads() == 6
