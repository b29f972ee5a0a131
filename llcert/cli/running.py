"""Runs a job for the command line: files, progress, report, exit code."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from llcert.ahead import Ahead
from llcert.certify import FIRST, Assurance, Verdict
from llcert.cli.jobs import job_of, reproducible
from llcert.cli.proofs import STAGES, Proofs
from llcert.cli.sharing import shared_results
from llcert.cli.terminal import stderr, stdout, uninterrupted, work_progress
from llcert.data import Dataset
from llcert.errors import InvalidInput
from llcert.job import Job
from llcert.machine.process_group import ProcessGroup
from llcert.question import Question
from llcert.report import Report, Tally
from llcert.report.diagnosis import percent
from llcert.run_directory import AHEAD, RunDirectory, dump, open_directory, write_atomically

_MISSED, _INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Outputs:
    """What becomes of the results. json: a file, or `-` for stdout. fail_under: in percent. proof: a folder for what
    backs every certificate.

    again: the command that goes on with a run that was interrupted, where it is not this one with --resume.
    """

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    proof: Path | None = None
    json: str | None = None
    tsv: Path | None = None
    fail_under: float | None = None
    again: str = ""

    def __post_init__(self) -> None:
        if self.out is None and (self.resume or (self.overwrite and self.proof is None)):
            raise InvalidInput(f"--{'resume' if self.resume else 'overwrite'} needs --out DIR")
        if self.fail_under is not None and not 0 <= self.fail_under <= 100:
            raise InvalidInput(f"--fail-under {self.fail_under}: give a percentage from 0 to 100")
        for name, path in (("--json", Path(self.json) if self.json not in (None, "-") else None), ("--tsv", self.tsv)):
            if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
                raise InvalidInput(f"{name} {path}: not a file that can be written; its folder must exist")


def run(
    model: str,
    question: Question,
    outputs: Outputs,
    *,
    self_check: bool = True,
    dataset: Dataset | None = None,
    group: ProcessGroup | None = None,
) -> int:
    """Answers a question about a model file; the exit code. Raises LlcertError for everything that cannot be done.

    dataset: in place of the one the question names. group: the processes that share the work, led by this one.
    """
    group = group or ProcessGroup()
    if group.size > 1 and outputs.proof is not None:
        raise InvalidInput("--proof: one process alone writes a certificate; start llcert without torchrun")
    directory = None
    if outputs.out is not None:
        directory = open_directory(outputs.out, resume=outputs.resume, overwrite=outputs.overwrite)
        question = _continued(question, directory)
    proofs = None
    if outputs.proof is not None:
        proofs = Proofs.open(outputs.proof, question, resume=outputs.resume, overwrite=outputs.overwrite)
        question = replace(question, stages=question.stages or STAGES)
    witness = None if proofs is None else proofs.recorder
    shared = group.size > 1
    job = job_of(
        Path(model), question, stderr(), self_check=self_check, dataset=dataset, witness=witness, shared=shared
    )
    if proofs is not None:
        proofs.begin(job.subject, job.identity["data_sha256"])
    tally = Tally(job.subject)
    try:
        with reproducible(job, outputs.out or Path()):
            finished = _work(job, tally, directory, question, proofs, group)
    finally:
        if directory is not None:
            directory.close()
    report = tally.report()
    if directory is not None:
        directory.write_summary(report)
    if not finished:
        _, code = group.stop(_INTERRUPTED)
        return _interrupted(report, model, outputs) if code == _INTERRUPTED else code
    code = _deliver(report, outputs)
    group.await_members()
    return code


def _continued(question: Question, directory: RunDirectory) -> Question:
    """The question, its gaps filled with what the run in the folder was asked, its batch boundaries among them."""
    if directory.stored is None:
        return question
    question = question.filled(directory.stored.question)
    return replace(question, batch_size=question.batch_size or directory.stored.identity.get("batch_size"))


def _work(
    job: Job,
    tally: Tally,
    directory: RunDirectory | None,
    question: Question,
    proofs: Proofs | None,
    group: ProcessGroup,
) -> bool:
    """Adds the results of all batches to the tally and to the folder; False if the user interrupted."""
    done = directory.begin(question, job.identity) if directory else ()
    if proofs is not None:
        proofs.require(done)
    for result in done:
        tally.add(result)
    try:
        with _ahead(directory, group) as ahead, work_progress(stderr(), "images", total=len(job.indices)) as progress:
            progress.advance(len(tally))
            for result in shared_results(job, question, group, ahead, done=len(done)):
                with uninterrupted():
                    tally.add(result)
                    if proofs is not None:
                        proofs.add(result)
                    if directory is not None:
                        directory.append(result)
                        if directory.summary_due:
                            directory.write_summary(tally.report())
                progress.advance(len(result.samples))
            ahead.clear()
    except KeyboardInterrupt:
        return False
    return True


@contextmanager
def _ahead(directory: RunDirectory | None, group: ProcessGroup) -> Iterator[Ahead]:
    """Where finished batches wait for their turn: in the folder of the run, so that they outlive it, or for now."""
    if directory is not None:
        yield Ahead((directory.path / AHEAD).resolve())
    elif group.size == 1:
        yield Ahead()
    else:
        with TemporaryDirectory(prefix="llcert-") as folder:
            yield Ahead(Path(folder) / AHEAD)


def _deliver(report: Report, outputs: Outputs) -> int:
    if outputs.tsv is not None:
        write_atomically(outputs.tsv, "".join(tsv_lines(report)))
    if outputs.json == "-":
        stdout().file.write(dump(report.to_json(), indent=2))
    else:
        if outputs.json is not None:
            write_atomically(Path(outputs.json), dump(report.to_json(), indent=2))
        stdout().print(report)
    certified = report.certified_accuracy
    if outputs.fail_under is not None and not (certified is not None and 100 * certified >= outputs.fail_under):
        message = f"certified accuracy {percent(certified)} is below --fail-under {outputs.fail_under:g}"
        stderr().print(message, soft_wrap=True)
        return _MISSED
    return 0


def _interrupted(report: Report, model: str, outputs: Outputs) -> int:
    done = f"interrupted after {len(report.samples)} of {report.subject.asked} images"
    if outputs.out is None:
        message = f"{done}; nothing was kept (with --out DIR a run can be resumed)"
    else:
        command = outputs.again or f"llcert certify {shlex.quote(model)} --out {shlex.quote(str(outputs.out))} --resume"
        message = f"{done}; go on with: {command}"
    stderr().print(message, soft_wrap=True, markup=False)
    return _INTERRUPTED


def tsv_lines(report: Report) -> Iterable[str]:
    """The lines of a randomised-smoothing file: radius as searched for, else eps where certified, else 0.

    More columns say what is claimed where that is not that the label is first, within which range of pixels alone, and
    by which assurance where that is a weaker one than `deterministic`.
    """
    subject, more = report.subject, {}
    if subject.specification != FIRST:
        more["claim"] = " ".join(f"{k} {v}" for k, v in subject.specification.to_json().items())
    if subject.within is not None:
        more["within"] = ",".join(subject.within.texts)
    if subject.assurance is not Assurance.DETERMINISTIC:
        more["assurance"] = subject.assurance.value
    name, value = ("".join(f"\t{part}" for part in parts) for parts in (more, more.values()))
    yield f"idx\tlabel\tpredict\tradius\tcorrect\ttime{name}\n"
    for s in report.samples:
        asked = (s.eps if s.verdict is Verdict.CERTIFIED else 0.0) or 0.0
        radius = asked if s.radius is None else s.radius
        correct = int(s.verdict is not Verdict.MISCLASSIFIED)
        # microseconds always, so that the column has one form
        seconds = timedelta(microseconds=max(1, math.ceil(1e6 * s.seconds)))
        yield f"{s.index}\t{s.label}\t{s.prediction}\t{radius}\t{correct}\t{seconds}{value}\n"
