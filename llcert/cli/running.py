"""Runs a certification for the command line: files, progress, report, exit code."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from llcert.api import file_sha256, load
from llcert.certification import multiplications
from llcert.cli.terminal import DownloadProgress, stderr, stdout, work_progress
from llcert.data import Dataset
from llcert.errors import InvalidInput
from llcert.machine.environment import own_device
from llcert.machine.files import dump, write_atomically
from llcert.machine.process_group import ProcessGroup
from llcert.machine.threads import own_threads, threads_for
from llcert.options import Options
from llcert.reporting import Report
from llcert.reporting.diagnosis import percent
from llcert.reporting.tsv import tsv_lines
from llcert.runs.certificate import Proofs
from llcert.runs.job import Job, prepare
from llcert.runs.resolve import data_of, device_of, settings_of, with_metadata
from llcert.runs.run import Plan, Run, continued, take_part
from llcert.runs.run_directory import open_directory

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
    options: Options,
    outputs: Outputs,
    *,
    dataset: Dataset | None = None,
    group: ProcessGroup | None = None,
) -> int:
    """Certifies a model file; the exit code. Raises LlcertError for everything that cannot be done.

    dataset: in place of the one the options name. group: the processes that share the work, led by this one.
    """
    group = group or ProcessGroup()
    directory, proofs = None, None
    if outputs.out is not None:
        directory = open_directory(outputs.out, resume=outputs.resume, overwrite=outputs.overwrite)
        options = continued(options, directory)
    if outputs.proof is not None:
        proofs = Proofs.open(outputs.proof, options, resume=outputs.resume, overwrite=outputs.overwrite)
    job = _job(Path(model), options, stderr(), dataset=dataset, proof=proofs is not None, shared=group.size > 1)
    with Run(job, options, group, directory, proofs) as run:
        finished = _watched(run)
    run.write_summary()
    if not finished:
        _, code = group.stop(_INTERRUPTED)
        return _interrupted(run.report, model, outputs) if code == _INTERRUPTED else code
    code = _deliver(run.report, outputs)
    group.await_members()
    return code


def share(model: str, group: ProcessGroup, *, folder: Path) -> int:
    """Certifies a part of the batches of the run that rank 0 leads; the exit code. Raises as `run` does.

    folder: for what shows a contradiction.
    """
    plan = Plan.awaited(group)
    job = _job(Path(model), plan.options, Console(quiet=True), proof=plan.proof, shared=True)
    take_part(job, plan, group, folder)
    return 0


def _job(
    path: Path,
    options: Options,
    console: Console,
    *,
    dataset: Dataset | None = None,
    proof: bool = False,
    shared: bool = False,
) -> Job:
    """The job, its model and data loaded and torch's threads chosen. shared: by several processes, each on a GPU of its
    own."""
    if shared:
        own_device(device_of(options.device))
    network, model = load(path), str(path)
    known = with_metadata(options, network)
    settings_of(known, model)  # what is wrong with the options is told before anything is downloaded
    if console.is_terminal:
        console.print("reading the data, computing the global bound ...", style="dim")
    dataset = dataset or data_of(known, model, DownloadProgress(console))
    job = prepare(network, options, model=model, sha256=file_sha256(path), dataset=dataset, proof=proof)
    torch.set_num_threads(threads_for(multiplications(job.certifier.program), own_threads()))
    return job


def _watched(run: Run) -> bool:
    """Runs to the end, with a progress bar; False if the user interrupted."""
    try:
        with work_progress(stderr(), "images", total=len(run.job.indices)) as progress:
            for result in run.results():
                progress.advance(len(result.samples))
    except KeyboardInterrupt:
        return False
    return True


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
