"""How batches are dealt out and come together, by threads in place of processes, and what ends a group."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import HashStore

from llcert.certify import BatchResult, LayerMeasure, Sample, StageCount, Verdict
from llcert.errors import InvalidInput
from llcert.evidence import Answer, ImageEvidence
from llcert.machine.process_group import ProcessGroup
from llcert.report.tally import rounded
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.records import batch_json, sample_json
from llcert.runs.work_queue import WorkQueue


def batch(number: int) -> Answer:
    """Two images, with numbers that do not end."""
    samples = tuple(
        Sample(i, 3, 3, Verdict.CERTIFIED, "local", i / 7, 2 / 3, None, radius=(i + 1) / 70, seconds=0.1)
        for i in (2 * number, 2 * number + 1)
    )
    layer = LayerMeasure(torch.tensor([1.1, torch.nan]), torch.tensor([3, number]), torch.tensor([0.25, 1.0]))
    return Answer(BatchResult(samples, (StageCount("clean", 2, 0, 0.1),), (layer,)))


def lines(answer: Answer) -> str:
    """What a run writes of a batch."""
    result = answer.result
    return json.dumps([batch_json(result), *(sample_json(s) for s in result.samples)])


def slow(seed: int) -> Callable[[int], Answer]:
    moment = random.Random(seed)

    def compute(number: int) -> Answer:
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


def test_what_lies_ahead_is_read_as_it_was(tmp_path: Path) -> None:
    ahead = PendingBatches(tmp_path)
    ahead.put(5, batch(5))
    found = ahead.get(5)
    assert found is not None
    assert lines(found) == lines(batch(5))
    assert ahead.get(6) is None
    (tmp_path / "6.json").write_text("{}")
    with pytest.raises(InvalidInput, match="damaged; remove it"):
        ahead.get(6)


def test_evidence_waits_with_its_batch(tmp_path: Path) -> None:
    pending, arrays = PendingBatches(tmp_path / "ahead"), {"x": np.array([0.1, 0.5]), "3.stop": np.array(2)}
    pending.put(5, Answer(batch(5).result, {10: ImageEvidence(3, 0.25, arrays)}))
    found = pending.get(5)
    assert found is not None
    assert found.evidence.keys() == {10}
    one = found.evidence[10]
    assert (one.reference, one.margin) == (3, 0.25)
    assert {name: values.tolist() for name, values in one.arrays.items()} == {"x": [0.1, 0.5], "3.stop": 2}
    (tmp_path / "ahead" / "5.npz").write_bytes(b"PK")
    with pytest.raises(InvalidInput, match="damaged; remove it"):
        pending.get(5)
    (tmp_path / "ahead" / "5.npz").unlink()
    with pytest.raises(InvalidInput, match="damaged; remove it"):
        pending.get(5)
    pending.put(5, Answer(batch(5).result, {10: ImageEvidence(3, 0.25, arrays)}))
    pending.clear()
    assert not (tmp_path / "ahead").exists()


def test_only_its_own_files_are_removed(tmp_path: Path) -> None:
    ahead = PendingBatches(tmp_path / "ahead")
    ahead.put(5, batch(5))
    (tmp_path / "ahead" / ".6.json.part").touch()
    (tmp_path / "ahead" / "notes.txt").touch()
    ahead.clear()
    assert [file.name for file in (tmp_path / "ahead").iterdir()] == ["notes.txt"]


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a folder that all machines share"):
        PendingBatches(tmp_path / "elsewhere" / "ahead").put(0, batch(0))


def test_rounding_twice_changes_nothing() -> None:
    """Batches pass through a file on their way, and their bytes may not depend on it."""
    moment = random.Random(0)
    for _ in range(10_000):
        radius = moment.choice(
            [
                moment.random(),
                moment.random() * 10 ** moment.uniform(-6, 3),
                moment.random() * 10 ** moment.uniform(-307, 307),
                moment.randrange(99) / 7,
            ]
        )
        once = rounded(Sample(0, 0, 0, Verdict.CERTIFIED, None, None, None, None, 0.0, radius=radius))
        assert once.radius is not None
        assert once.radius <= radius <= once.radius * (1 + 2e-8)
        assert rounded(once).radius == once.radius
