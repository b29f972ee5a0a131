"""What is kept where an image is certified and broken at once: a file that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from llcert.certification import Contradiction, radii_of
from llcert.errors import NumericalError
from llcert.runs.job import Job


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
