"""What torchrun says of a process."""

from __future__ import annotations

import pytest
import torch

from llcert.errors import InvalidInput
from llcert.machine.environment import local_size, own_device, own_rank


@pytest.mark.parametrize(
    ("said", "rank"),
    [({}, 0), ({"RANK": "1"}, 0), ({"RANK": "1", "WORLD_SIZE": "1"}, 0), ({"RANK": "1", "WORLD_SIZE": "2"}, 1)],
)
def test_the_number_of_a_process(said: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster may number processes that know nothing of each other: each is the first of its own team."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert own_rank() == rank


def test_a_processor_is_everybody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cpu")) == torch.device("cpu")


def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1) == chosen[0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InvalidInput, match="process 2 of this machine has no GPU: there are 2"):
        own_device(torch.device("cuda"))


def test_a_process_that_shares_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in (("4", 4), ("0", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
        assert local_size() == size
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(InvalidInput, match="LOCAL_WORLD_SIZE 'many' in the environment"):
        local_size()
