"""Runs a job for the command line: files, progress, report, exit code."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from llcert.api import file_sha256, load
from llcert.certify import Contradiction, Sample, Verdict, Witness, radii_of
from llcert.cli.proofs import STAGES, Proofs
from llcert.cli.terminal import DownloadProgress, stderr, stdout, uninterrupted, work_progress
from llcert.data import Dataset
from llcert.errors import InvalidInput, NumericalError
from llcert.frontend import parity
from llcert.job import Job, prepare
from llcert.question import Question
from llcert.report import Report, Tally
from llcert.report.diagnosis import percent
from llcert.run_directory import RunDirectory, dump, open_directory, write_atomically
from llcert.sizing import threads_for

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
    model: str, question: Question, outputs: Outputs, *, self_check: bool = True, dataset: Dataset | None = None
) -> int:
    """Answers a question about a model file; the exit code. Raises LlcertError for everything that cannot be done.

    dataset: in place of the one the question names.
    """
    directory = None
    if outputs.out is not None:
        directory = open_directory(outputs.out, resume=outputs.resume, overwrite=outputs.overwrite)
        question = _continued(question, directory)
    proofs = None
    if outputs.proof is not None:
        proofs = Proofs.open(outputs.proof, question, resume=outputs.resume, overwrite=outputs.overwrite)
        question = replace(question, stages=question.stages or STAGES)
    witness = None if proofs is None else proofs.recorder
    job = _job(Path(model), question, self_check=self_check, dataset=dataset, witness=witness)
    if proofs is not None:
        proofs.begin(job.subject)
    torch.set_num_threads(threads_for(job.certifier.program, torch.get_num_threads()))
    tally = Tally(job.subject)
    try:
        finished = _work(job, tally, directory, question, proofs)
    except Contradiction as found:
        raise NumericalError(
            f"{found}; {_reproducer(found, job, outputs.out or Path())} holds what shows it"
        ) from found
    finally:
        if directory is not None:
            directory.close()
    report = tally.report()
    if directory is not None:
        directory.write_summary(report)
    if not finished:
        return _interrupted(report, model, outputs)
    return _deliver(report, outputs)


def _continued(question: Question, directory: RunDirectory) -> Question:
    """The question, its gaps filled with what the run in the folder was asked, its batch boundaries among them."""
    if directory.stored is None:
        return question
    question = question.filled(directory.stored.question)
    return replace(question, batch_size=question.batch_size or directory.stored.identity.get("batch_size"))


def _job(path: Path, question: Question, *, self_check: bool, dataset: Dataset | None, witness: Witness | None) -> Job:
    network = load(path)
    console = stderr()
    if console.is_terminal:
        console.print("reading the data, computing the global bound ...", style="dim")
    return prepare(
        network,
        question,
        model=str(path),
        sha256=file_sha256(path),
        dataset=dataset,
        progress=DownloadProgress(console),
        parity=None if path.name.endswith(".pt2") else lambda images: parity.check(network, path, images),
        self_check=self_check,
        witness=witness,
    )


def _work(job: Job, tally: Tally, directory: RunDirectory | None, question: Question, proofs: Proofs | None) -> bool:
    """Adds the results of all batches to the tally and to the folder; False if the user interrupted."""
    done = directory.begin(question, job.identity) if directory else ()
    for result in done:
        tally.add(result)
    try:
        with work_progress(stderr(), "images", total=len(job.indices)) as progress:
            progress.advance(len(tally))
            for result in job.results(skip=len(done)):
                with uninterrupted():
                    tally.add(result)
                    if proofs is not None:
                        proofs.add(result)
                    if directory is not None:
                        directory.append(result)
                        if directory.summary_due:
                            directory.write_summary(tally.report())
                progress.advance(len(result.samples))
    except KeyboardInterrupt:
        return False
    return True


def _deliver(report: Report, outputs: Outputs) -> int:
    if outputs.tsv is not None:
        write_atomically(outputs.tsv, "".join(tsv_lines(report.samples)))
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


def tsv_lines(samples: Iterable[Sample]) -> Iterable[str]:
    """The lines of a randomised-smoothing file: radius as searched for, else eps where certified, else 0."""
    yield "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    for s in samples:
        asked = (s.eps if s.verdict is Verdict.CERTIFIED else 0.0) or 0.0
        radius = asked if s.radius is None else s.radius
        correct = int(s.verdict is not Verdict.MISCLASSIFIED)
        # microseconds always, so that the column has one form
        seconds = timedelta(microseconds=max(1, math.ceil(1e6 * s.seconds)))
        yield f"{s.index}\t{s.label}\t{s.prediction}\t{radius}\t{correct}\t{seconds}\n"


def _reproducer(found: Contradiction, job: Job, folder: Path) -> Path:
    """Writes the image, the point that breaks it and what else is needed to see it again; the file."""
    path = folder / f"contradiction_{found.index}.npz"
    np.savez(
        path,
        image=found.image.detach().cpu().numpy(),
        witness=found.witness.detach().cpu().numpy(),
        label=found.label,
        index=found.index,
        eps=float(radii_of(job.certifier.settings.eps, torch.tensor([found.index]))),
        claim=job.subject.claim.words,
        model=job.subject.model,
        model_sha256=job.subject.model_sha256 or "",
        weights_sha256=job.subject.weights_sha256,
    )
    return path
