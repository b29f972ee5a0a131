"""Batch sizes by memory, and the work of a forward pass."""

from __future__ import annotations

import pytest
import torch

from llcert.certification import batch_size_for, multiplications
from llcert.ir import Input, Network, apply
from llcert.ops import Conv, Linear, relu
from llcert.program import lower

DENSE = Network(apply(Linear(torch.ones(3, 6)), apply(relu(), apply(Linear(torch.ones(6, 4)), apply(Input((4,)))))))


def test_batch_sizes_are_powers_of_two_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    program = lower(DENSE)
    assert batch_size_for(program) == 256
    monkeypatch.setattr("llcert.certification.footprint.free_memory", lambda device: 100_000)
    small = batch_size_for(program)
    assert 1 <= small < 256
    assert small & (small - 1) == 0
    monkeypatch.setattr("llcert.certification.footprint.free_memory", lambda device: 0)
    assert batch_size_for(program) == 1


def test_multiplications_are_those_of_a_forward_pass() -> None:
    assert multiplications(lower(DENSE)) == 6 * 4 + 3 * 6
    convolution = apply(Conv(torch.zeros(2, 3, 5, 5), torch.zeros(2)), apply(Input((3, 9, 8))))
    assert multiplications(lower(Network(convolution))) == (2 * 5 * 4) * (3 * 5 * 5)
