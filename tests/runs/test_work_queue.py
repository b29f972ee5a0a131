"""How batches are dealt out and come together, by threads in place of processes, and what ends a group."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from llcert.certification import BatchResult, LayerMeasure, Sample, StageCount, Verdict
from llcert.machine.process_group import ProcessGroup
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.records import BatchOutcome, batch_json, sample_json
from llcert.runs.work_queue import WorkQueue


def batch(number: int) -> BatchOutcome:
    """Two images, with numbers that do not end."""
    samples = tuple(
        Sample(i, 3, 3, Verdict.CERTIFIED, "local", i / 7, 2 / 3, None, radius=(i + 1) / 70, seconds=0.1)
        for i in (2 * number, 2 * number + 1)
    )
    layer = LayerMeasure(torch.tensor([1.1, torch.nan]), torch.tensor([3, number]), torch.tensor([0.25, 1.0]))
    return BatchOutcome(BatchResult(samples, (StageCount("clean", 2, 0, 0.1),), (layer,)))


def lines(outcome: BatchOutcome) -> str:
    """What a run writes of a batch."""
    result = outcome.result
    return json.dumps([batch_json(result), *(sample_json(s) for s in result.samples)])


def slow(seed: int) -> Callable[[int], BatchOutcome]:
    moment = random.Random(seed)

    def compute(number: int) -> BatchOutcome:
        time.sleep(moment.random() * 0.01)
        return batch(number)

    return compute


@pytest.mark.parametrize("size", [1, 2, 4, 30])
def test_in_order_whoever_computes_them(size: int, tmp_path: Path) -> None:
    """Batches 0 and 1 are done, 3 and 7 are pending."""
    store, pending, numbers = HashStore(), PendingBatches(tmp_path / "ahead"), [2, 4, 5, 6, *range(8, 20)]
    for number in (3, 7):
        pending.put(number, batch(number))
    assert pending.numbers() == {3, 7}
    queues = [WorkQueue(ProcessGroup(rank, size, store), pending, numbers) for rank in range(size)]
    with ThreadPoolExecutor(size) as others:
        helping = [others.submit(queues[rank].help_out, slow(rank)) for rank in range(1, size)]
        found = list(queues[0].in_order(slow(0), range(2, 20)))
        for one in helping:
            one.result()
    assert [lines(result) for result in found] == [lines(batch(number)) for number in range(2, 20)]
    assert pending.numbers() == set()
    pending.clear()
    assert not (tmp_path / "ahead").exists()


def test_a_batch_is_pending_until_it_is_written(tmp_path: Path) -> None:
    pending = PendingBatches(tmp_path / "ahead")
    pending.put(0, batch(0))
    results = WorkQueue(ProcessGroup(), pending, [1]).in_order(batch, range(2))
    next(results)
    assert pending.numbers() == {0}
    next(results)
    assert pending.numbers() == set()


def test_one_alone_needs_no_folder() -> None:
    assert len(list(WorkQueue(ProcessGroup(), PendingBatches(), range(3)).in_order(batch, range(3)))) == 3
