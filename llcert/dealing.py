"""How batches are dealt out to the processes of a team, and come together again in their order.

Batches differ much in cost, so that each process takes the next open one whenever it is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llcert.ahead import Ahead
from llcert.certify import BatchResult
from llcert.team import Team

Compute = Callable[[int], BatchResult]
"""The result of a batch by its number."""


def in_order(
    compute: Compute, team: Team, ahead: Ahead, *, numbers: range, dealt: Sequence[int]
) -> Iterator[BatchResult]:
    """The results of these batches in their order, whoever computes them: the first process's part.

    dealt: the numbers of the batches that are to be computed, the same for all processes; the others lie ahead. Nothing
    is forgotten before the caller asks for the result that follows it. Raises as `Team.wait`, or what `compute` raises.
    """
    left = True
    for number in numbers:
        while (result := ahead.get(number)) is None:
            taken = _taken(team, dealt) if left else None
            left = taken is not None
            if taken is None:
                team.wait()
            elif taken == number:
                result = compute(taken)
                break
            else:
                ahead.put(taken, compute(taken))
        yield result
        ahead.drop(number)


def help_out(compute: Compute, team: Team, ahead: Ahead, *, dealt: Sequence[int]) -> None:
    """Computes batches as long as there are any: the part of every other process."""
    while (taken := _taken(team, dealt)) is not None:
        result = compute(taken)
        # a team that has stopped may not be there any more to take it
        team.check()
        ahead.put(taken, result)


def _taken(team: Team, dealt: Sequence[int]) -> int | None:
    """The number of a batch for this process; None where all are taken."""
    place = team.deal()
    return dealt[place] if place < len(dealt) else None
