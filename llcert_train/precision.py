"""In which format the network of a training step computes: what is asked, or what is faster on this machine."""

from __future__ import annotations

import math

import torch

from llcert_train.settings import Precision
from llcert_train.trainer import Trainer

_WORTH = 0.9
"""Share of the time in float32 below which bfloat16 is taken: it is less exact."""


def settle(trainer: Trainer) -> str | None:
    """Decides it for a run that begins; one line for the user where there was something to decide.

    Only steps whose bounds take no pass of their own through the network gain by it; others, and runs that begin with
    such, stay as they are.
    """
    asked = trainer.recipe.precision
    if asked is Precision.FLOAT32 or not trainer.objective.needs_no_pass:
        return None
    trainer.compute_in(torch.bfloat16)
    if asked is Precision.BFLOAT16:
        return None
    end = math.nextafter(1 - trainer.recipe.last_share, 0)  # of the first phase
    narrow = trainer.cost(end)
    trainer.compute_in(None)
    wide = trainer.cost(end)
    faster = narrow < _WORTH * wide
    if faster:
        trainer.compute_in(torch.bfloat16)
    taken = "bfloat16" if faster else "float32"
    return f"precision: {taken}; a step takes {narrow:.3f} s in bfloat16 and {wide:.3f} s in float32"
