"""The file that reproduces a contradiction, an image that is certified and broken at once: a bug of llcert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from llcert.certification import Contradiction, radii_of
from llcert.errors import NumericalError
from llcert.runs.prepare import Certification


@contextmanager
def reproducible(certification: Certification, folder: Path) -> Iterator[None]:
    """Turns a Contradiction into a NumericalError that names a file in `folder` that reproduces it."""
    try:
        yield
    except Contradiction as found:
        raise NumericalError(f"{found}; {_reproducer(found, certification, folder)} holds what shows it") from found


def _reproducer(found: Contradiction, certification: Certification, folder: Path) -> Path:
    """Writes the image, the point that breaks it and what else is needed to see it again; the file."""
    subject, settings = certification.subject, certification.certifier.settings
    path = folder / f"contradiction_{found.index}.npz"
    np.savez(
        path,
        image=found.image.detach().cpu().numpy(),
        witness=found.counterexample.detach().cpu().numpy(),
        label=found.label,
        index=found.index,
        eps=float(radii_of(settings.eps, torch.tensor([found.index]))),
        claim=subject.claim_words,
        model=subject.model,
        model_sha256=subject.model_sha256 or "",
        weights_sha256=subject.weights_sha256,
    )
    return path
