"""How batches are dealt out to the processes of a group, and come together again in their order.

Batches differ much in cost, so that each process takes the next open one whenever it is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llcert.ahead import Ahead
from llcert.certify import BatchResult
from llcert.machine.process_group import ProcessGroup

Compute = Callable[[int], BatchResult]
"""The result of a batch by its number."""


def in_order(
    compute: Compute, group: ProcessGroup, ahead: Ahead, *, numbers: range, dealt: Sequence[int]
) -> Iterator[BatchResult]:
    """The results of these batches in their order, whoever computes them: the first process's part.

    dealt: the numbers of the batches that are to be computed, the same for all processes; the others lie ahead. Nothing
    is forgotten before the caller asks for the result that follows it. Raises as `ProcessGroup.wait` and
    `compute` do.
    """
    left = True
    for number in numbers:
        while (result := ahead.get(number)) is None:
            taken = _taken(group, dealt) if left else None
            left = taken is not None
            if taken is None:
                group.wait()
            elif taken == number:
                result = compute(taken)
                break
            else:
                ahead.put(taken, compute(taken))
        yield result
        ahead.drop(number)


def help_out(compute: Compute, group: ProcessGroup, ahead: Ahead, *, dealt: Sequence[int]) -> None:
    """Computes batches as long as there are any: the part of every other process."""
    while (taken := _taken(group, dealt)) is not None:
        result = compute(taken)
        # a group that has stopped may not be there any more to take it
        group.check()
        ahead.put(taken, result)


def _taken(group: ProcessGroup, dealt: Sequence[int]) -> int | None:
    """The number of a batch for this process; None where all are taken."""
    place = group.next_number()
    return dealt[place] if place < len(dealt) else None
