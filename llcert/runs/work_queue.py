"""The batches of a run as a queue from which the processes of a group take, and from which results come in order.

Batches differ much in cost, so that every process takes the next one whenever it is free
(docs/decisions/sharing.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llcert.certificate_writer import Answer
from llcert.machine.process_group import ProcessGroup
from llcert.runs.pending_batches import PendingBatches

Compute = Callable[[int], Answer]
"""The result of a batch by its number."""


@dataclass(frozen=True)
class WorkQueue:
    """open: the numbers of the batches that are to be computed, the same for all processes. pending: where results
    wait that were finished before those in front of them."""

    group: ProcessGroup
    pending: PendingBatches
    open: Sequence[int]

    def in_order(self, compute: Compute, numbers: range) -> Iterator[Answer]:
        """The results of these batches in order, whichever process computes them: what rank 0 does.

        Batches that are not open are pending. A pending batch is removed only when the caller asks for the result
        behind it. Raises as `ProcessGroup.wait` and `compute` do.
        """
        left = True
        for number in numbers:
            while (answer := self.pending.get(number)) is None:
                taken = self._next() if left else None
                left = taken is not None
                if taken is None:
                    self.group.wait()
                elif taken == number:
                    answer = compute(taken)
                    break
                else:
                    self.pending.put(taken, compute(taken))
            yield answer
            self.pending.drop(number)

    def help_out(self, compute: Compute) -> None:
        """Computes open batches until none is left: what every other process does. Raises likewise."""
        while (taken := self._next()) is not None:
            answer = compute(taken)
            # where the group has stopped, rank 0 may not be there any more to take it
            self.group.check()
            self.pending.put(taken, answer)

    def _next(self) -> int | None:
        """The number of a batch for this process alone; None where all are taken."""
        position = self.group.next_number()
        return self.open[position] if position < len(self.open) else None
