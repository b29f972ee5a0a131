"""Batches that wait for their turn, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llcert.certificate_writer import ImageEvidence
from llcert.errors import InvalidInput
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.records import BatchOutcome

from .test_work_queue import batch, lines


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
    pending.put(5, BatchOutcome(batch(5).result, {10: ImageEvidence(3, 0.25, arrays)}))
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
    pending.put(5, BatchOutcome(batch(5).result, {10: ImageEvidence(3, 0.25, arrays)}))
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
