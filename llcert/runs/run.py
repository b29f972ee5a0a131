"""A run: the batches of a job, certified by one process or several, every result on disk before the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from llcert.certificate_writer import Answer
from llcert.certification import BatchResult
from llcert.errors import InvalidInput
from llcert.machine.process_group import ProcessGroup
from llcert.machine.signals import uninterrupted
from llcert.options import Options
from llcert.reporting import Report, Tally
from llcert.runs.certificate import Proofs
from llcert.runs.contradiction import reproducible
from llcert.runs.job import Job
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.run_directory import PENDING, RunDirectory
from llcert.runs.work_queue import WorkQueue


@dataclass(frozen=True)
class Plan:
    """What rank 0 publishes. options: of the run, its batch size among them. identity: what every process must agree
    with. open: numbers of the batches that are to be computed. pending: the folder of pending batches. proof: whether
    the evidence of certificates is kept."""

    options: Options
    identity: Mapping[str, Any]
    open: tuple[int, ...]
    pending: Path
    proof: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "options": self.options.to_json(),
            "identity": dict(self.identity),
            "open": list(self.open),
            "pending": str(self.pending),
            "proof": self.proof,
        }

    @staticmethod
    def awaited(group: ProcessGroup) -> Plan:
        """The plan of this process's group, once it is there. Raises as `ProcessGroup.wait`."""
        content = group.await_published()
        options = Options.from_json(content["options"])
        return Plan(options, content["identity"], tuple(content["open"]), Path(content["pending"]), content["proof"])


@dataclass
class Run:
    """A run as rank 0 sees it, which writes its files; a context manager that closes them.

    directory: of the run, None where nothing is kept. proofs: the certificate that is written along with it.
    """

    job: Job
    options: Options
    group: ProcessGroup = field(default_factory=ProcessGroup)
    directory: RunDirectory | None = None
    proofs: Proofs | None = None
    _resources: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._tally = Tally(self.job.subject)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def report(self) -> Report:
        """The report on everything that is decided so far."""
        return self._tally.report()

    def results(self) -> Iterator[BatchResult]:
        """The results of all batches in order, those of the run that is continued among them.

        A result is in the report and on disk before it is yielded. Raises NumericalError where a bound is seen to be
        wrong, LlcertError where a process of the group is gone.
        """
        if self.proofs is not None:
            self.proofs.begin(self.job)
        done = self._begin()
        if self.proofs is not None:
            self.proofs.require(done)
        for result in done:
            self._tally.add(result)
            yield result
        queue = self._queue(len(done))
        with reproducible(self.job, self.directory.path if self.directory else Path()):
            compute = partial(_result, self.job, queue.open)
            for answer in queue.in_order(compute, range(len(done), self.job.batches)):
                with uninterrupted():
                    self._record(answer)
                yield answer.result
        queue.pending.clear()

    def write_summary(self) -> None:
        """Writes the report, where the run has a directory."""
        if self.directory is not None:
            self.directory.write_summary(self.report)

    def _begin(self) -> tuple[BatchResult, ...]:
        """What an earlier run left in the directory, which is open from now on."""
        if self.directory is None:
            return ()
        self._resources.callback(self.directory.close)
        return self.directory.begin(self.options, self.job.identity)

    def _queue(self, done: int) -> WorkQueue:
        """The queue of all batches but the first `done`, published to the other processes."""
        pending = self._pending()
        kept = pending.numbers()
        numbers = tuple(number for number in range(done, self.job.batches) if number not in kept)
        if self.group.size > 1:
            assert pending.path is not None
            options = replace(self.options, batch_size=self.job.batch_size)
            self.group.publish(
                Plan(options, self.job.identity, numbers, pending.path, self.proofs is not None).to_json()
            )
        return WorkQueue(self.group, pending, numbers)

    def _pending(self) -> PendingBatches:
        """Where batches wait for their turn: in the folder of the run, so that they outlive it, or for now."""
        if self.directory is not None:
            return PendingBatches((self.directory.path / PENDING).resolve())
        if self.group.size == 1:
            return PendingBatches()
        folder = self._resources.enter_context(TemporaryDirectory(prefix="llcert-"))
        return PendingBatches(Path(folder) / PENDING)

    def _record(self, answer: Answer) -> None:
        self._tally.add(answer.result)
        if self.proofs is not None:
            self.proofs.add(answer)
        if self.directory is not None:
            self.directory.append(answer.result)
            if self.directory.summary_due:
                self.write_summary()


def continued(options: Options, directory: RunDirectory | None) -> Options:
    """The options, with what they leave open taken from the run in the directory, its batch size included."""
    if directory is None or directory.stored is None:
        return options
    options = options.filled(directory.stored.options)
    return replace(options, batch_size=options.batch_size or directory.stored.identity.get("batch_size"))


def take_part(job: Job, plan: Plan, group: ProcessGroup, folder: Path) -> None:
    """Certifies batches of the run that rank 0 leads, until none is left. folder: for what shows a contradiction.

    Raises InvalidInput where this process reads another model or other data.
    """
    _compare(plan.identity, job.identity, group.rank)
    with reproducible(job, folder):
        WorkQueue(group, PendingBatches(plan.pending), plan.open).help_out(partial(_result, job, plan.open))


def _result(job: Job, numbers: Sequence[int], number: int) -> Answer:
    """Of a batch; the self-check is done on the first that is computed."""
    return job.result(number, self_check=number == numbers[0])


def _compare(first: Mapping[str, Any], mine: Mapping[str, Any], rank: int) -> None:
    """Raises InvalidInput where another process reads another model or other data; devices may differ."""
    # through JSON, so that both have its types
    known = json.loads(json.dumps(mine))
    for name in first.keys() - {"device"}:
        if first[name] != known.get(name):
            raise InvalidInput(
                f"{name} is {known.get(name)} for process {rank}, but {first[name]} for process 0: "
                "every machine needs the same model and data"
            )
