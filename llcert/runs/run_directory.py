"""The folder of a run: results are on disk at once, and a run that was killed can be resumed (docs/decisions/runs.md).

| file | what |
|---|---|
| `run.json` | the options as given, the identity of the run, the folder of its certificate |
| `samples.jsonl` | one line an image |
| `batches.jsonl` | one line a finished batch, with what the report needs beyond the samples |
| `summary.json` | the report |

A batch counts once its line in `batches.jsonl` is complete; lines of `samples.jsonl` behind the last such batch are
dropped on resumption.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from llcert.certification import BatchResult
from llcert.errors import InvalidInput
from llcert.machine.files import dump, first_difference, is_vacant, lock, part_of, write_atomically
from llcert.options import Options, with_stage_names
from llcert.reporting import Report
from llcert.runs.records import batch_json, batch_result, sample_json

FORMAT = "llcert run 1"
RUN, SAMPLES, BATCHES, SUMMARY = "run.json", "samples.jsonl", "batches.jsonl", "summary.json"
PENDING = "batches.ahead"
"""The folder of batches that were finished before those in front of them; see `llcert.runs.pending_batches`."""
FILES = (SUMMARY, SAMPLES, BATCHES, RUN)
_SUMMARY_SECONDS = 1.0


@dataclass(frozen=True)
class RunFile:
    """The content of `run.json`.

    options: as given. identity: what a resumed run must agree with. proof: the folder of the run's certificate, None
    where none is written.
    """

    options: Options
    identity: Mapping[str, Any]
    proof: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The content as JSON values."""
        proof = {} if self.proof is None else {"proof": str(self.proof)}
        return {"format": FORMAT, "question": self.options.to_json(), "identity": dict(self.identity), **proof}

    @staticmethod
    def read(path: Path) -> RunFile:
        """The content of a file. Raises InvalidInput where no run wrote it, or none that can be continued."""
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise InvalidInput(f"{path}: not a run that this version of llcert can continue")
            proof = Path(content["proof"]) if "proof" in content else None
            return RunFile(Options.from_json(content["question"]), with_stage_names(content["identity"]), proof)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InvalidInput(f"{path}: not written by llcert; choose another folder") from error


@dataclass
class RunDirectory:
    """The folder while a run writes to it. Make one with `open_directory`.

    earlier: of the interrupted run that is resumed; None for a new run.
    """

    path: Path
    earlier: RunFile | None = None
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _written: float = 0.0

    def begin(
        self, options: Options, identity: Mapping[str, Any], *, proof: Path | None = None
    ) -> tuple[BatchResult, ...]:
        """Opens the files; the results of the batches that an interrupted run finished, none for a new run.

        proof: the folder of the run's certificate. Raises InvalidInput naming the first difference to the run that is
        resumed, for damaged files, and where another process is at work in the folder.
        """
        if self.earlier is not None:
            _same(self.earlier.identity, identity, self.path)
        now = RunFile(options, identity, None if proof is None else proof.resolve())
        try:
            self._open()
            return self._new(now) if self.earlier is None else self._resumed(self.earlier, now)
        except BaseException:
            self._release()
            raise

    def _new(self, now: RunFile) -> tuple[BatchResult, ...]:
        clear_pending(self.path / PENDING)
        write_atomically(self.path / RUN, dump(now.to_json(), indent=2))
        return ()

    def _resumed(self, earlier: RunFile, now: RunFile) -> tuple[BatchResult, ...]:
        if now.proof != earlier.proof:
            write_atomically(self.path / RUN, dump(replace(earlier, proof=now.proof).to_json(), indent=2))
        return self._finished()

    def append(self, result: BatchResult) -> None:
        """Writes a batch: its samples first, then the line that makes it count."""
        lines = "".join(dump(sample_json(s)) for s in result.samples)
        self._write(SAMPLES, lines)
        self._write(BATCHES, dump({"end": self._files[SAMPLES].tell(), **batch_json(result)}))

    @property
    def summary_due(self) -> bool:
        """Whether `summary.json` is more than a second old."""
        return time.monotonic() - self._written >= _SUMMARY_SECONDS

    def write_summary(self, report: Report) -> None:
        """Replaces `summary.json`."""
        write_atomically(self.path / SUMMARY, dump(report.to_json(), indent=2))
        self._written = time.monotonic()

    def close(self) -> None:
        """Drops the samples of unfinished batches, and closes the files."""
        if self._files:
            self._finished()
        self._release()

    def _release(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _open(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (BATCHES, SAMPLES):
                mode = "r+b" if (self.path / name).exists() else "w+b"
                self._files[name] = open(self.path / name, mode, buffering=0)  # noqa: SIM115
            lock(self._files[BATCHES], self.path)
        except OSError as error:
            raise InvalidInput(f"--out {self.path}: cannot be written ({error.strerror or error})") from error

    def _write(self, name: str, text: str) -> None:
        file = self._files[name]
        left = memoryview(text.encode())
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())

    def _finished(self) -> tuple[BatchResult, ...]:
        """The finished batches; both files are cut behind the last of them."""
        samples, batches = (_content(self._files[name]) for name in (SAMPLES, BATCHES))
        results: list[BatchResult] = []
        end = used = 0
        for line in batches.splitlines(keepends=True):
            record = self._parse(line, BATCHES, len(results)) if line.endswith(b"\n") else None
            if record is None or not end < record["end"] <= len(samples):
                break
            lines = samples[end : record["end"]].splitlines()
            results.append(self._result(record, lines, len(results)))
            end, used = record["end"], used + len(line)
        for name, length in ((SAMPLES, end), (BATCHES, used)):
            self._files[name].truncate(length)
            self._files[name].seek(length)
        return tuple(results)

    def _parse(self, line: bytes, name: str, number: int) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("end"), int):
            raise InvalidInput(f"{self.path / name}: line {number + 1} is damaged; start again with --overwrite")
        return value

    def _result(self, record: dict[str, Any], lines: list[bytes], number: int) -> BatchResult:
        try:
            return batch_result(record, [json.loads(line) for line in lines])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{self.path}: batch {number + 1} is damaged; start again with --overwrite") from error


def open_directory(path: Path, *, resume: bool, overwrite: bool) -> RunDirectory:
    """The folder of a new or a resumed run; nothing is created before `begin`.

    resume: continues the run in the folder, if there is one. overwrite: removes its files. Raises InvalidInput where
    the folder is not empty and neither is given, and where it holds files under our names that no run wrote.
    """
    if is_vacant(path, "--out", resume=resume, overwrite=overwrite, marker=RUN):
        return RunDirectory(path)
    ours = [name for name in FILES if (path / name).exists()]
    earlier = RunFile.read(path / RUN) if RUN in ours else None
    # a run that was killed before its first batch has created empty files, and no run.json yet
    if earlier is None and any((path / name).stat().st_size for name in ours):
        raise InvalidInput(f"--out {path}: holds {', '.join(ours)} that no llcert run wrote; choose another folder")
    if overwrite:
        if earlier is not None:
            clear_pending(path / PENDING)
        for name in FILES:  # run.json is the last: it is what makes the others ours
            part_of(path / name).unlink(missing_ok=True)
            (path / name).unlink(missing_ok=True)
        return RunDirectory(path)
    return RunDirectory(path, earlier)


def clear_pending(path: Path) -> None:
    """Removes the folder of pending batches with what a run wrote there, nothing else."""
    for pattern in ("[0-9]*.json", ".[0-9]*.json.part", "[0-9]*.npz", ".[0-9]*.npz.part"):
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def _same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    name = first_difference(before, now)
    if name is not None:
        raise InvalidInput(
            f"--resume: {name} is {now[name]} now, but was {before.get(name)} in {path}; "
            "give the same options or start again with --overwrite"
        )


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
