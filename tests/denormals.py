"""Evaluations with subnormal numbers flushed to zero, as some processors do it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def flushing(compute: Callable[[], Tensor]) -> Tensor:
    """What a computation gives while torch flushes subnormal numbers."""
    torch.set_flush_denormal(True)
    try:
        return compute()
    finally:
        torch.set_flush_denormal(False)
