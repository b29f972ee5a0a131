"""The object of a backward pass: a lower bound of objectives that is linear in some values of the network, and the sum
of constants in it (docs/method.md, Proposition 9.3; rounding: section 12, lemma 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from llcert.bounds.backward.choices import Choice, Key
from llcert.domain.row_sharing import UNSHARED, RowSharing
from llcert.ir import Node
from llcert.numerics.rounding import Rounding


@dataclass(frozen=True)
class LowerSum:
    """A lower bound of a sum, term by term.

    value: the sum as computed, `[batch, bounds]`. rounding: of the arithmetic; None for an estimate, which does not pay
    for rounding. size: the sum of absolute values. error: the sum of bounds of what the terms may be too large by.
    count: the number of terms. evaluation: the part of `error` that evaluations of the network err, not this
    arithmetic.
    """

    value: Tensor
    rounding: Rounding | None
    size: Tensor
    error: Tensor
    evaluation: Tensor
    count: int = 0

    @staticmethod
    def of(zero: Tensor, rounding: Rounding | None) -> LowerSum:
        """The empty sum; zero: zeros `[batch, bounds]`."""
        return LowerSum(zero, rounding, zero, zero, zero)

    def plus(self, term: Tensor, error: Tensor | None = None, evaluation: Tensor | None = None) -> LowerSum:
        """The sum with one more term. error: bound of what that may be too large by, none for an estimate. evaluation:
        the part of it that evaluations of the network err."""
        value, count = self.value + term, self.count + 1
        if self.rounding is None:
            return replace(self, value=value, count=count)
        total = self.error if error is None else self.error + error
        part = self.evaluation if evaluation is None else self.evaluation + evaluation
        return replace(self, value=value, size=self.size + term.abs(), error=total, evaluation=part, count=count)

    @property
    def lower(self) -> Tensor:
        """The lower bound, `[batch, bounds]`: the value, less all errors where rounding is paid for."""
        if self.rounding is None:
            return self.value
        paid = self.rounding.gamma(2 * self.count + 8) * self.size + self.error
        return self.value - self.rounding.above(paid, 2 * self.count + 8)

    @property
    def paid(self) -> Tensor:
        """What the lower bound pays for the rounding of this arithmetic, not for that of evaluations of the network."""
        return (self.value - self.lower - self.evaluation).clamp(min=0)


@dataclass(frozen=True)
class LinearBound:
    """`sum over values h of coefficients[h] . h + constant`, a lower bound of the objectives at every point of the
    balls.

    coefficients: of block outputs and of the image, `[batch, rows, *shape]`; those from several readers of one value
    are added up. constant: for each objective. sharing: which bound the entries of these rows count towards, by value;
    UNSHARED for a value that is not named. choices: slopes and multipliers of every relaxation that was passed.
    relaxed: the coefficients on the output of each of these relaxations.
    """

    coefficients: Mapping[Node, Tensor]
    constant: LowerSum
    sharing: Mapping[Node, RowSharing] = field(default_factory=dict)
    choices: Mapping[Key, Choice] = field(default_factory=dict)
    relaxed: Mapping[Key, Tensor] = field(default_factory=dict)

    def sharing_at(self, node: Node) -> RowSharing:
        """The sharing of the coefficients on one value."""
        return self.sharing.get(node, UNSHARED)

    def plus(self, node: Node, part: Tensor) -> LinearBound:
        """The bound with more coefficients on one value."""
        known = self.coefficients
        return replace(self, coefficients={**known, node: known[node] + part if node in known else part})

    def without(self, node: Node) -> LinearBound:
        """The bound less the coefficients on one value, for which others or a constant are about to stand in."""
        return replace(self, coefficients={n: a for n, a in self.coefficients.items() if n is not node})
