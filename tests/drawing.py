"""Seeded tensors and choices for tests: the same seed gives the same numbers on every machine."""

from __future__ import annotations

import random
from functools import partial

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, drawn in float64 and then converted."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


normal32 = partial(normal, dtype=torch.float32)
"""`normal` in float32."""


def number(value: float) -> Tensor:
    """A float64 tensor without axes."""
    return torch.tensor(value, dtype=torch.float64)


def numbers(*values: float) -> Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def ints(*values: int) -> Tensor:
    """An int64 vector."""
    return torch.tensor(values, dtype=torch.int64)


class Draw:
    """A source of choices and tensors, one after the other from one seed."""

    def __init__(self, seed: int) -> None:
        self.choices = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers in float64."""
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def positive(self, *shape: int, least: float = 0.2) -> Tensor:
        """Uniform numbers between `least` and `least + 1` in float64."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) + least

    def factors(self, *shape: int) -> Tensor:
        """Masks of 0 and 1, or factors of any size, a part of them zero; float64."""
        kept = torch.rand(shape, generator=self.generator, dtype=torch.float64) < self.choices.choice([0.2, 0.6, 1.0])
        values = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return kept.double() * (1.0 if self.choices.random() < 0.5 else values * self.choices.choice([1.0, 100.0]))
