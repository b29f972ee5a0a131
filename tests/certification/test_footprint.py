"""Batch sizes by memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import pytest
import torch
from torch import Tensor

from llcert.certificate_writer import CertificateGraph, checkable
from llcert.certification import Certifier, Footprint, Settings, batch_size_for
from llcert.ir import Input, Network, Op, apply
from llcert.ops import Linear, relu
from llcert.program import Program, lower

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


def _deep() -> Network:
    """Four hidden layers of 64 neurons, some of which are unstable."""
    generator, node = torch.Generator().manual_seed(0), apply(Input((6,)))
    for _ in range(4):
        weight = torch.randn(64, node.shape[0], generator=generator) / node.shape[0] ** 0.5
        node = apply(relu(), apply(Linear(weight), node))
    return Network(apply(Linear(torch.randn(10, 64, generator=generator)), node))


def _tensors(value: object, seen: dict[int, Tensor]) -> dict[int, Tensor]:
    """All tensors inside dataclasses, mappings and sequences, by where their numbers lie."""
    if isinstance(value, Tensor):
        seen[value.untyped_storage().data_ptr()] = value
    elif isinstance(value, Mapping):
        for item in value.values():
            _tensors(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            _tensors(item, seen)
    elif is_dataclass(value) and not isinstance(value, Program | Op):
        for field in fields(value):
            _tensors(getattr(value, field.name), seen)
    return seen


def test_the_evidence_of_an_image_counts() -> None:
    """What the proofs of a batch hold is no more than the footprint says."""
    network = _deep()
    graph = CertificateGraph.of(lower(network, dtype=torch.float64))
    settings = Settings(0.01, stages=("crown-ball-intermediate",))
    certifier = Certifier.of(network, settings, dtype=torch.float32, checkable=checkable(graph))
    images = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    (proof,) = certifier(images, network(images).argmax(1), torch.arange(8)).proofs
    held = sum(t.untyped_storage().nbytes() for t in _tensors(proof, {}).values())
    with_, without = (Footprint.of(certifier.program, proved=True, evidence=e).image for e in (True, False))
    assert len(proof.indices) > 4
    print(
        held / len(proof.indices), with_ - without, 8 * certifier.program.entries, proof.proof.regions.first is not None
    )
    assert 0.3 * (with_ - without) < held / len(proof.indices) <= with_ - without
