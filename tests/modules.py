"""Torch modules made of functions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Lambda(nn.Module):
    """A function of the image and some constants, which are buffers of the module."""

    def __init__(self, function: Callable[..., Tensor], *constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for i, constant in enumerate(constants):
            self.register_buffer(f"c{i}", constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.buffers())
