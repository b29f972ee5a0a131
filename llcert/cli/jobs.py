"""From a model file and a question to a job that is ready to run, in whichever process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from llcert.api import file_sha256, load
from llcert.certify import Contradiction, Witness, multiplications, radii_of
from llcert.cli.terminal import DownloadProgress
from llcert.data import Dataset
from llcert.errors import NumericalError
from llcert.job import Job, device_of, prepare
from llcert.machine.environment import own_device
from llcert.machine.threads import own_threads, threads_for
from llcert.question import Question


def job_of(
    path: Path,
    question: Question,
    console: Console,
    *,
    self_check: bool,
    dataset: Dataset | None = None,
    witness: Witness | None = None,
    shared: bool = False,
) -> Job:
    """The job, its model loaded and torch's threads chosen. shared: by several processes, each on a GPU of its own."""
    if shared:
        own_device(device_of(question.device))
    network = load(path)
    if console.is_terminal:
        console.print("reading the data, computing the global bound ...", style="dim")
    job = prepare(
        network,
        question,
        model=str(path),
        sha256=file_sha256(path),
        dataset=dataset,
        progress=DownloadProgress(console),
        self_check=self_check,
        witness=witness,
    )
    torch.set_num_threads(threads_for(multiplications(job.certifier.program), own_threads()))
    return job


@contextmanager
def reproducible(job: Job, folder: Path) -> Iterator[None]:
    """Turns a Contradiction into a NumericalError that names the file with what shows it."""
    try:
        yield
    except Contradiction as found:
        raise NumericalError(f"{found}; {_reproducer(found, job, folder)} holds what shows it") from found


def _reproducer(found: Contradiction, job: Job, folder: Path) -> Path:
    """Writes the image, the point that breaks it and what else is needed to see it again; the file."""
    path = folder / f"contradiction_{found.index}.npz"
    np.savez(
        path,
        image=found.image.detach().cpu().numpy(),
        witness=found.counterexample.detach().cpu().numpy(),
        label=found.label,
        index=found.index,
        eps=float(radii_of(job.certifier.settings.eps, torch.tensor([found.index]))),
        claim=job.subject.claim_words,
        model=job.subject.model,
        model_sha256=job.subject.model_sha256 or "",
        weights_sha256=job.subject.weights_sha256,
    )
    return path
