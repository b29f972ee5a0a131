"""The work queue of a run: processes of a group take batches from it, and results leave it in order.

Batches differ much in cost, so a process takes the next one whenever it is free (docs/decisions/sharing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llcert.machine.process_group import ProcessGroup
from llcert.runs.pending_batches import PendingBatches
from llcert.runs.records import BatchOutcome

Compute = Callable[[int], BatchOutcome]
"""Computes the result of a batch, given its number."""


@dataclass(frozen=True)
class WorkQueue:
    """The batches of one run.

    open: the numbers of the batches to compute, the same for all processes. pending: results that wait for those of
    earlier batches.
    """

    group: ProcessGroup
    pending: PendingBatches
    open: Sequence[int]

    def in_order(self, compute: Compute, numbers: range) -> Iterator[BatchOutcome]:
        """The results of some batches in order, whichever process computes them; for the process that leads.

        Batches that are not open are pending. A pending batch is removed only when the caller asks for the next result.
        Raises as `ProcessGroup.wait` and `compute` do.
        """
        left = True
        for number in numbers:
            while (outcome := self.pending.get(number)) is None:
                taken = self._next() if left else None
                left = taken is not None
                if taken is None:
                    self.group.wait()
                elif taken == number:
                    outcome = compute(taken)
                    break
                else:
                    self.pending.put(taken, compute(taken))
            yield outcome
            self.pending.drop(number)

    def help_out(self, compute: Compute) -> None:
        """Computes open batches until none is left; for every other process. Raises likewise."""
        while (taken := self._next()) is not None:
            outcome = compute(taken)
            # where the group has stopped, rank 0 may not be there any more to take it
            self.group.check()
            self.pending.put(taken, outcome)

    def _next(self) -> int | None:
        """The number of an open batch that no other process gets; None where all are taken."""
        position = self.group.next_number()
        return self.open[position] if position < len(self.open) else None
