"""A run: the batches of a certification, by one process or several, every result on disk before the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from llcert.certification import BatchResult
from llcert.errors import InvalidInput
from llcert.machine.files import first_difference
from llcert.machine.process_group import ProcessGroup
from llcert.machine.signals import uninterrupted
from llcert.options import Options
from llcert.reporting import Report, Tally
from llcert.runs.certificate import RunCertificate
from llcert.runs.contradiction import reproducible
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.prepare import Certification
from llcert.runs.records import BatchOutcome
from llcert.runs.run_directory import PENDING, RunDirectory
from llcert.runs.work_queue import Compute, WorkQueue


@dataclass(frozen=True)
class Assignment:
    """The plan that the process that leads a run publishes to the others.

    options: of the run, its batch size among them. identity: what every process must agree with. open: numbers of the
    batches that are to be computed. pending: the folder of pending batches. proof: whether evidence is kept.
    """

    options: Options
    identity: Mapping[str, Any]
    open: tuple[int, ...]
    pending: Path
    proof: bool = False

    def to_json(self) -> dict[str, Any]:
        """The assignment as JSON values."""
        return {
            "options": self.options.to_json(),
            "identity": dict(self.identity),
            "open": list(self.open),
            "pending": str(self.pending),
            "proof": self.proof,
        }

    @staticmethod
    def awaited(group: ProcessGroup) -> Assignment:
        """The assignment of this process's group, once it is there. Raises as `ProcessGroup.wait`."""
        content = group.await_published()
        options = Options.from_json(content["options"])
        open_, pending = tuple(content["open"]), Path(content["pending"])
        return Assignment(options, content["identity"], open_, pending, content["proof"])


@dataclass
class Run:
    """A run as the process that leads it sees it, which alone writes its files; a context manager that closes them.

    directory: of the run, None where nothing is kept. certificate: its certificate, None where none is written.
    """

    certification: Certification
    options: Options
    group: ProcessGroup = field(default_factory=ProcessGroup)
    directory: RunDirectory | None = None
    certificate: RunCertificate | None = None
    _resources: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._tally = Tally(self.certification.subject)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def images(self) -> int:
        """How many images the run certifies."""
        return len(self.certification.indices)

    @property
    def report(self) -> Report:
        """The report on the batches so far."""
        return self._tally.report()

    def results(self) -> Iterator[BatchResult]:
        """The results of all batches in order, those of an interrupted run that is resumed first.

        A result is in the report and on disk before it is yielded. Raises NumericalError where a bound is seen to be
        wrong, LlcertError where a process of the group is gone.
        """
        if self.certificate is not None:
            self.certificate.begin(self.certification)
        done = self._begin()
        if self.certificate is not None:
            self.certificate.require(done)
        for result in done:
            self._tally.add(result)
            yield result
        queue, numbers = self._queue(len(done)), range(len(done), self.certification.batches)
        with reproducible(self.certification, self.directory.path if self.directory else Path()):
            for outcome in queue.in_order(_compute(self.certification, queue), numbers):
                with uninterrupted():
                    self._record(outcome)
                yield outcome.result
        queue.pending.clear()

    def write_summary(self) -> None:
        """Writes the report, where the run has a directory."""
        if self.directory is not None:
            self.directory.write_summary(self.report)

    def _begin(self) -> tuple[BatchResult, ...]:
        """The results of an interrupted run in the directory, which is open from now on."""
        if self.directory is None:
            return ()
        self._resources.callback(self.directory.close)
        proof = None if self.certificate is None else self.certificate.folder.path
        return self.directory.begin(self.options, self.certification.identity, proof=proof)

    def _queue(self, done: int) -> WorkQueue:
        """The queue of all batches but the first `done`, published to the other processes."""
        pending = self._pending()
        kept = pending.numbers()
        numbers = tuple(n for n in range(done, self.certification.batches) if n not in kept)
        if self.group.size > 1:
            assert pending.path is not None
            options = replace(self.options, batch_size=self.certification.batch_size)
            proof = self.certificate is not None
            assignment = Assignment(options, self.certification.identity, numbers, pending.path, proof)
            self.group.publish(assignment.to_json())
        return WorkQueue(self.group, pending, numbers)

    def _pending(self) -> PendingBatches:
        """The folder of waiting batches: in the folder of the run, or a temporary one where nothing is kept."""
        if self.directory is not None:
            return PendingBatches((self.directory.path / PENDING).resolve())
        if self.group.size == 1:
            return PendingBatches()
        folder = self._resources.enter_context(TemporaryDirectory(prefix="llcert-"))
        return PendingBatches(Path(folder) / PENDING)

    def _record(self, outcome: BatchOutcome) -> None:
        self._tally.add(outcome.result)
        if self.certificate is not None:
            self.certificate.add(outcome)
        if self.directory is not None:
            self.directory.append(outcome.result)
            if self.directory.summary_due:
                self.write_summary()


def continued(options: Options, directory: RunDirectory | None) -> Options:
    """The options, with what they leave open taken from the run in the directory, its batch size included."""
    if directory is None or directory.earlier is None:
        return options
    options = options.filled(directory.earlier.options)
    return replace(options, batch_size=options.batch_size or directory.earlier.identity.get("batch_size"))


def help_out(certification: Certification, assignment: Assignment, group: ProcessGroup, folder: Path) -> None:
    """Certifies batches of the run that another process leads, until none is left.

    folder: for the file that reproduces a contradiction. Raises InvalidInput where this process reads another model or
    other data.
    """
    _compare(assignment.identity, certification.identity, group.rank)
    queue = WorkQueue(group, PendingBatches(assignment.pending), assignment.open)
    with reproducible(certification, folder):
        queue.help_out(_compute(certification, queue))


def _compute(certification: Certification, queue: WorkQueue) -> Compute:
    """A function that computes a batch, given its number; the first open batch is self-checked."""
    return partial(certification.result, checked=next(iter(queue.open), -1))


def _compare(first: Mapping[str, Any], mine: Mapping[str, Any], rank: int) -> None:
    """Raises InvalidInput where another process reads another model or other data; devices may differ."""
    name = first_difference(first, {name: mine.get(name) for name in first if name != "device"})
    if name is not None:
        raise InvalidInput(
            f"{name} is {mine.get(name)} for process {rank}, but {first[name]} for process 0: "
            "every machine needs the same model and data"
        )
