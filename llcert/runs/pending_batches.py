"""Results of batches that wait for earlier batches: a JSON file each, and one of arrays where evidence is kept.

Every process of a group writes the batches that it has finished, so that they outlive the run; the process that leads
moves them to the files of the run in order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llcert.certificate_writer import evidence_from, evidence_json, packed
from llcert.errors import InvalidInput
from llcert.machine.files import dump, write_atomically
from llcert.runs.records import BatchOutcome, batch_json, batch_result, sample_json
from llcert.runs.run_directory import clear_pending


@dataclass(frozen=True)
class PendingBatches:
    """The folder of waiting batches. path: need not exist; None for one process alone, whose batches never wait."""

    path: Path | None = None

    def put(self, number: int, outcome: BatchOutcome) -> None:
        """Writes the result of a batch. Raises InvalidInput where the folder cannot be seen from this machine."""
        assert self.path is not None, "one process alone finishes its batches in order"
        try:
            self.path.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise InvalidInput(
                f"{self.path.parent} is not there for every process: give --out a folder that all machines share"
            ) from error
        samples = [sample_json(s) for s in outcome.result.samples]
        entries, arrays = evidence_json(outcome.evidence)
        if arrays:
            write_atomically(self._arrays(number), packed(arrays))
        content = {**batch_json(outcome.result), "samples": samples, "evidence": entries}
        write_atomically(self._file(number), dump(content))

    def get(self, number: int) -> BatchOutcome | None:
        """The result of a batch; None where it is not finished. Raises InvalidInput where its file is damaged."""
        if self.path is None:
            return None
        file = self._file(number)
        try:
            record = json.loads(file.read_bytes())
            evidence = evidence_from(record["evidence"], self._arrays(number)) if record.get("evidence") else {}
            return BatchOutcome(batch_result(record, record["samples"]), evidence)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{file}: damaged; remove it and give --resume again") from error

    def drop(self, number: int) -> None:
        """Removes the files of a batch, if there are any."""
        if self.path is not None:
            self._file(number).unlink(missing_ok=True)
            self._arrays(number).unlink(missing_ok=True)

    def numbers(self) -> set[int]:
        """The numbers of the batches that wait."""
        if self.path is None or not self.path.is_dir():
            return set()
        return {int(file.stem) for file in self.path.glob("*.json") if file.stem.isdecimal()}

    def clear(self) -> None:
        """Removes the folder with what a run wrote there, nothing else."""
        if self.path is not None:
            clear_pending(self.path)

    def _file(self, number: int) -> Path:
        assert self.path is not None
        return self.path / f"{number}.json"

    def _arrays(self, number: int) -> Path:
        return self._file(number).with_suffix(".npz")
