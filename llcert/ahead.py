"""Batches that were finished before those in front of them, until their turn comes: one file each, whole or not there.

Every process of a group writes here what it has finished, so that it survives whatever ends the run; the first process
moves it to where it belongs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llcert.certify import BatchResult
from llcert.errors import InvalidInput
from llcert.run_directory import batch_json, batch_result, clear_ahead, dump, sample_json, write_atomically


@dataclass(frozen=True)
class Ahead:
    """path: of the folder, which need not exist; None where nothing can lie ahead."""

    path: Path | None = None

    def put(self, number: int, result: BatchResult) -> None:
        """Keeps a batch. Raises InvalidInput where the folder is not to be seen from here."""
        assert self.path is not None, "one process alone finishes its batches in order"
        try:
            self.path.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise InvalidInput(
                f"{self.path.parent} is not there for every process: give --out a folder that all machines share"
            ) from error
        content = {**batch_json(result), "samples": [sample_json(s) for s in result.samples]}
        write_atomically(self._file(number), dump(content))

    def get(self, number: int) -> BatchResult | None:
        """A batch that was kept. Raises InvalidInput where its file is damaged."""
        if self.path is None:
            return None
        file = self._file(number)
        try:
            record = json.loads(file.read_bytes())
            return batch_result(record, record["samples"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{file}: damaged; remove it and give --resume again") from error

    def drop(self, number: int) -> None:
        """Forgets a batch."""
        if self.path is not None:
            self._file(number).unlink(missing_ok=True)

    def numbers(self) -> set[int]:
        """Of the batches that lie here."""
        if self.path is None or not self.path.is_dir():
            return set()
        return {int(file.stem) for file in self.path.glob("*.json") if file.stem.isdecimal()}

    def clear(self) -> None:
        """Removes the folder and what a group wrote there, nothing else."""
        if self.path is not None:
            clear_ahead(self.path)

    def _file(self, number: int) -> Path:
        assert self.path is not None
        return self.path / f"{number}.json"
