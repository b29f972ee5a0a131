"""The symbolic batch size computes what holds for every batch, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest

from llcert.ir.batch_size import BATCH, BatchSize, DependsOnBatch

BATCHES = (1, 2, 3, 5, 12, 7919)
OPERANDS: tuple[int | BatchSize, ...] = (-7919, -1, 0, 1, 2, 3, 6, 12, 7919, BATCH, BatchSize(2), BatchSize(6))
FUNCTIONS = (
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
)


def for_batch(value: Any, batch: int) -> Any:
    return value.factor * batch if isinstance(value, BatchSize) else value


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_what_is_computed_holds_for_every_batch(function: Callable[[Any, Any], Any]) -> None:
    computed = 0
    for size in (BATCH, BatchSize(6)):
        for pair in [(size, other) for other in OPERANDS] + [(other, size) for other in OPERANDS]:
            try:
                result = function(*pair)
            except (DependsOnBatch, TypeError):
                continue
            computed += 1
            for batch in BATCHES:
                expected = function(*(for_batch(v, batch) for v in pair))
                assert for_batch(result, batch) == expected, (function, pair, batch)
    assert computed > 4


def test_what_depends_on_the_batch_is_not_computed() -> None:
    for broken in (
        lambda: BATCH + 1,
        lambda: BATCH - 8,
        lambda: BatchSize(6) // 4,
        lambda: BatchSize(6) % 4,
        lambda: BATCH * -1,
        lambda: BATCH == 7919,
        lambda: BATCH != 1,
        lambda: BATCH > 1,
        lambda: BATCH < 10**9,
        lambda: BATCH == 8.0,
        lambda: int(BATCH),
        lambda: float(BATCH),
        lambda: range(BATCH),  # type: ignore[call-overload]
        lambda: [0] * BATCH,  # type: ignore[operator]
    ):
        with pytest.raises(DependsOnBatch):
            broken()
    assert BATCH != "batch"
    assert hash(BATCH) == hash(BatchSize(1))
