"""How torch may compute products, for estimates and for proofs.

Bounds that are estimated need numbers in their own format: `full_precision`. Bounds that are proved also need to know
which sums are computed, since their rounding is paid for term by term: `direct_sums`. On a GPU it is slower by far, so
estimates do without it; proofs, in float64, have nothing that `full_precision` could turn off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

import torch


class _Precision(Protocol):
    fp32_precision: str


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, products of float32 numbers are in float32: TF32 and bfloat16 shortcuts are off."""
    with ExitStack() as stack:
        for backend, products in (
            (torch.backends.cudnn, "conv"),
            (torch.backends.cuda, "matmul"),
            (torch.backends.mkldnn, "conv"),
            (torch.backends.mkldnn, "matmul"),
        ):
            setting = cast(_Precision, getattr(backend, products))
            stack.callback(setattr, setting, "fp32_precision", setting.fp32_precision)
            setting.fp32_precision = "ieee"
        yield


@contextmanager
def direct_sums() -> Iterator[None]:
    """Inside, every product is a sum of the products of its entries, in some order: cuDNN, which may transform both
    factors first (FFT, Winograd), is off."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before
