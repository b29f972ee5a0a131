"""Batches that do not fit: the same verdicts in parts, nothing done twice that was done before."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llcert.certification import (
    Assurance,
    Batch,
    BatchResult,
    BoundsSoFar,
    Certifier,
    Finding,
    Settings,
    Stage,
    Verdict,
)
from llcert.certification.memory_budget import MemoryBudget
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu

FULL = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
STAGES = ("global", "local", "attack", "crown-ball", "crown-ball-intermediate")


@dataclass(frozen=True)
class Cramped:
    """A stage on a device that holds `room` images at a time. seen: how many each call was shown.

    light: whether it holds no forward passes of other stages beside them.
    """

    stage: Stage
    room: int
    seen: list[int] = field(default_factory=list)
    light: bool = False

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def verdict(self) -> Verdict:
        return self.stage.verdict

    def __call__(self, batch: Batch, so_far: BoundsSoFar) -> Finding:
        self.seen.append(len(batch))
        if len(batch) > self.room or (self.light and so_far.has_traces):
            raise RuntimeError(FULL)
        return self.stage(batch, so_far)


def _network() -> Network:
    generator = torch.Generator().manual_seed(0)
    node = apply(Input((6,)))
    for rows in (12, 8):
        node = apply(relu(), apply(Linear(torch.randn(rows, node.shape[0], generator=generator) / 2), node))
    return Network(apply(Linear(torch.randn(3, 8, generator=generator)), node))


def _batch(count: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(count, 6, generator=torch.Generator().manual_seed(1))
    labels = _network()(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3
    return images, labels, torch.arange(100, 100 + count)


def _certifier(**settings: Any) -> Certifier:
    return Certifier.of(_network(), Settings(**{"eps": 0.3, "stages": STAGES, **settings}))


def _cramped(certifier: Certifier, rooms: dict[str, int]) -> Certifier:
    stages = tuple(Cramped(s, rooms.get(s.name, 1000)) for s in certifier.stages)
    return replace(certifier, stages=stages)


def _known(result: BatchResult) -> list[tuple[Any, ...]]:
    return [(s.index, s.verdict, s.stage, s.assurance, s.radius is None) for s in result.samples]


@functools.cache
def _whole(assurance: Assurance) -> BatchResult:
    return _certifier(assurance=assurance)(*_batch(), self_check=True)


PLACES = [(name, Assurance.ESTIMATE) for name in ("clean", "local", "crown-ball")] + [
    ("global", Assurance.DETERMINISTIC)
]


@pytest.mark.parametrize(("where", "assurance"), PLACES)
def test_verdicts_are_the_same_wherever_memory_ends(where: str, assurance: Assurance) -> None:
    expected = _whole(assurance)
    found = _cramped(_certifier(assurance=assurance), {where: 4})(*_batch(), self_check=True)
    assert len({v for _, v, *_ in _known(expected)}) == 4
    assert _known(found) == _known(expected)
    assert [(s.name, s.seen, s.decided) for s in found.stages] == [(s.name, s.seen, s.decided) for s in expected.stages]
    for mine, theirs in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.norm, theirs.norm, rtol=1e-4, atol=1e-6)


def test_what_was_done_before_is_not_done_again() -> None:
    cramped = _cramped(_certifier(assurance=Assurance.ESTIMATE), {"crown-ball": 3})
    cramped(*_batch())
    seen = {s.name: s.seen for s in cramped.stages if isinstance(s, Cramped)}
    assert [len(seen[name]) for name in ("clean", "global", "local", "attack")] == [1, 1, 1, 1]
    assert seen["crown-ball"][0] > 3
    failed = sum(n > 3 for n in seen["crown-ball"])
    before = len(seen["crown-ball"])
    cramped(*_batch())
    again = seen["crown-ball"][before:]
    assert failed >= 1
    assert max(again) <= 3, "later batches start at the size that fitted"


def test_an_estimate_cuts_before_anything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llcert.certification.memory_budget.free_memory", lambda device: 1000)
    memory = MemoryBudget(torch.device("cpu"), bytes=lambda images: 100 * images)
    assert memory.parts("any", torch.arange(12), len) == [3, 3, 3, 3]
    huge = MemoryBudget(torch.device("cpu"), bytes=lambda images: 10_000 * images)
    assert huge.parts("any", torch.arange(3), len) == [1, 1, 1]


def test_a_single_image_that_does_not_fit_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"image 10\d alone does not fit .*at local.* --assurance estimate"):
        _cramped(_certifier(assurance=Assurance.ESTIMATE), {"local": 0})(*_batch())


def test_other_errors_pass() -> None:
    def broken(part: Tensor) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        MemoryBudget(torch.device("cpu")).parts("any", torch.arange(4), broken)


def test_an_image_fits_once_no_forward_pass_is_kept() -> None:
    certifier = _certifier(assurance=Assurance.ESTIMATE)
    stages = tuple(Cramped(s, 1000, light=s.name == "crown-ball") for s in certifier.stages)
    found = replace(certifier, stages=stages)(*_batch())
    assert _known(found) == _known(_whole(Assurance.ESTIMATE))
    one = replace(certifier, stages=stages)(*(t[1:2] for t in _batch()))
    assert len(one.samples) == 1


def test_radii_are_the_same_in_parts() -> None:
    whole, cramped = (
        _certifier(radius_tolerance=0.05, stages=("local",), assurance=Assurance.ESTIMATE) for _ in range(2)
    )
    assert cramped.search is not None
    search: Callable[..., Tensor] = cramped.search

    def limited(batch: Batch) -> Tensor:
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(batch)

    small: Any = limited
    cramped = replace(cramped, search=small)
    expected, found = ([s.radius for s in c(*_batch()).samples] for c in (whole, cramped))
    assert found == pytest.approx(expected, rel=1e-6)


LIMITED = """
import json, resource, torch
torch.set_num_threads(1)
from llcert.certification import Assurance, Certifier, Settings
from llcert.certification.memory_budget import MemoryBudget
from llcert.ir import Input, Network, apply
from llcert.ops import Linear, relu
g = torch.Generator().manual_seed(0)
node = apply(Input((64,)))
for n in (1024, 1024):
    node = apply(relu(), apply(Linear(torch.randn(n, node.shape[0], generator=g) / node.shape[0] ** 0.5), node))
network = Network(apply(Linear(torch.randn(10, 1024, generator=g) / 32), node))
images = torch.rand(256, 64, generator=g)
settings = Settings(eps=0.004, stages=("local",), assurance=Assurance.ESTIMATE)
certifier = Certifier.of(network, settings)
certifier(images[:1], network(images[:1]).argmax(1), torch.arange(1))  # threads and buffers of the libraries
labels = network(images).argmax(1)
memory = MemoryBudget(certifier.program.device)  # no estimate
object.__setattr__(certifier, "memory", memory)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
results = []
for limit in ((used << 10) + (48 << 20), resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    result = certifier(images, labels, torch.arange(256))
    samples = [[s.index, s.verdict.value, s.margin] for s in result.samples]
    results.append({"samples": samples, "most": dict(memory.most)})
    memory.most.clear()
print(json.dumps(results))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address spaces are read from /proc")
def test_verdicts_are_the_same_under_a_real_limit() -> None:
    command = [sys.executable, "-c", LIMITED]
    parts, whole = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert parts["most"]["local"] < 256
    assert whole["most"] == {}
    assert len({verdict for _, verdict, _ in whole["samples"]}) > 1
    assert [s[:2] for s in parts["samples"]] == [s[:2] for s in whole["samples"]]
    margins = ([s[2] for s in found["samples"]] for found in (parts, whole))
    assert next(margins) == pytest.approx(next(margins), rel=1e-4, abs=1e-5)
