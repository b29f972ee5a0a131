"""Starts runs on model files: folders are opened, the model and its data loaded, torch's threads and device chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from llcert.data import Dataset, Progress
from llcert.errors import InvalidInput
from llcert.frontend.load import load
from llcert.machine.environment import own_device
from llcert.machine.files import file_sha256
from llcert.machine.process_group import ProcessGroup
from llcert.machine.threads import own_threads, threads_for
from llcert.options import Options
from llcert.runs.certificate import RunCertificate
from llcert.runs.prepare import Certification, prepare
from llcert.runs.resolve import data_of, device_of, settings_of, with_metadata
from llcert.runs.run import Assignment, Run, continued, help_out
from llcert.runs.run_directory import open_directory


@dataclass(frozen=True)
class Folders:
    """The folders in which a run is kept. Raises InvalidInput for options that exclude each other.

    out: the folder of the run; None where nothing is kept. proof: of its certificate; None for none or, where a run
    goes on, for the one that it began. resume: whether what lies there is continued; overwrite: whether it is replaced.
    """

    out: Path | None = None
    proof: Path | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.out is None and (self.resume or (self.overwrite and self.proof is None)):
            raise InvalidInput(f"--{'resume' if self.resume else 'overwrite'} needs --out DIR")


NOWHERE = Folders()


def open_run(
    path: Path,
    options: Options,
    folders: Folders = NOWHERE,
    *,
    group: ProcessGroup,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
) -> Run:
    """A run of the group on a model file, which this process leads. Raises LlcertError for what cannot be done.

    dataset: in place of the one that the options name. progress: shows downloads.
    """
    directory, certificate, proof = None, None, folders.proof
    if folders.out is not None:
        directory = open_directory(folders.out, resume=folders.resume, overwrite=folders.overwrite)
        options = continued(options, directory)
        proof = proof or (directory.earlier.proof if directory.earlier else None)
    if proof is not None:
        certificate = RunCertificate.open(proof, options, resume=folders.resume, overwrite=folders.overwrite)
    certification = _loaded(path, options, dataset, progress, proof=certificate is not None, shared=group.size > 1)
    return Run(certification, options, group, directory, certificate)


def take_part(path: Path, group: ProcessGroup, *, folder: Path) -> None:
    """Certifies batches of the run that another process of the group leads, until none is left.

    folder: for the file that reproduces a contradiction. Raises LlcertError for what cannot be done.
    """
    assignment = Assignment.awaited(group)
    certification = _loaded(path, assignment.options, proof=assignment.proof, shared=True)
    help_out(certification, assignment, group, folder)


def _loaded(
    path: Path,
    options: Options,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
    *,
    proof: bool,
    shared: bool,
) -> Certification:
    """The certification of a model file. shared: by several processes, each on a GPU of its own."""
    if shared:
        own_device(device_of(options.device))
    network, model = load(path), str(path)
    completed = with_metadata(options, network)
    settings_of(completed, model)  # what is wrong with the options is told before anything is downloaded
    dataset = dataset or data_of(completed, model, progress)
    found = prepare(network, options, model=model, sha256=file_sha256(path), dataset=dataset, proof=proof)
    torch.set_num_threads(threads_for(found.certifier.program.multiplications, own_threads()))
    return found
