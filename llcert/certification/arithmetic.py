"""The arithmetic that certificates are computed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast

import torch


class _Precision(Protocol):
    fp32_precision: str


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products as float32: TF32 and bfloat16 shortcuts are off inside, and as before afterwards."""
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
