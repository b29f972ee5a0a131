"""Statistics of measured values, of which some may be NaN or infinite."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable


def finite(value: float) -> float | None:
    """The number, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def mean(values: Iterable[float]) -> float | None:
    """The mean of the finite values, None if there are none."""
    measured = [v for v in values if math.isfinite(v)]
    return math.fsum(measured) / len(measured) if measured else None


def median(values: Iterable[float]) -> float | None:
    """The median of the finite values, None if there are none."""
    measured = [v for v in values if math.isfinite(v)]
    return statistics.median(measured) if measured else None


def histogram(values: list[int], intervals: int = 8) -> tuple[tuple[int, int, int], ...]:
    """How many values fall into each of a few intervals of whole numbers, `(lowest, highest, count)`."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // intervals))
    counts = Counter((value - low) // width for value in values)
    return tuple((low + i * width, min(high, low + (i + 1) * width - 1), counts[i]) for i in range(max(counts) + 1))
