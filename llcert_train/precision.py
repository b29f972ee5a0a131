"""In which format the network of a training step computes: what is asked, or what is faster on this machine."""

from __future__ import annotations

import torch

from llcert_train.settings import Precision
from llcert_train.trainer import Trainer

_WORTH = 0.9
"""Share of the time in float32 below which bfloat16 is taken: it is less exact."""


def settle(trainer: Trainer) -> str | None:
    """Decides it for a run that begins; one line for the user where there was something to decide.

    Only steps whose bounds take no pass of their own through the network gain by it; others stay as they are.
    """
    asked = trainer.recipe.precision
    if asked is Precision.FLOAT32 or not trainer.objective.plain:
        return None
    trainer.objective.narrow = torch.bfloat16
    if asked is Precision.BFLOAT16:
        return None
    narrow = trainer.cost(1.0)
    trainer.objective.narrow = None
    wide = trainer.cost(1.0)
    faster = narrow < _WORTH * wide
    if faster:
        trainer.objective.narrow = torch.bfloat16
    taken = "bfloat16" if faster else "float32"
    return f"precision: {taken}; a step takes {narrow:.3f} s in bfloat16 and {wide:.3f} s in float32"
