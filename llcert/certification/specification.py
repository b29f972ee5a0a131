"""Specifications: what is claimed of the logits at every point of a ball, and which margins `z_y - z_j` prove it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llcert.domain.pixel_range import PixelRange
from llcert.errors import InvalidInput


class Specification(ABC):
    """A property of the logits that is claimed at every point of a ball.

    One class of each image, its *reference*, is compared with others, its *rivals*: it holds where
    `z_reference - z_rival > 0` for all of them but `spare`. Logits are `[batch, classes]`, or have one more entry, a
    zero that stands for a final ReLU: `relu(z)_a > relu(z)_b` exactly if `z_a > z_b` and `z_a > 0`. It is a rival of
    every reference, is never spared, and is no class. Bounds are lower bounds of the differences `z_reference - z_j`,
    one for each logit j; NaN and infinity among them prove nothing.
    """

    @property
    def spare(self) -> int:
        """How many rival classes the reference need not exceed."""
        return 0

    @property
    @abstractmethod
    def words(self) -> str:
        """What is claimed, as the end of a sentence about every point of the ball."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the share of images of which it is true is called."""

    @property
    @abstractmethod
    def broken(self) -> str:
        """What an image is of which it is false without any perturbation."""

    @abstractmethod
    def to_json(self) -> dict[str, int]:
        """As certificates state it."""

    @abstractmethod
    def check(self, classes: int) -> None:
        """Raises InvalidInput where it means nothing, or nothing new, for a network of so many classes."""

    def asks(self, label: int) -> bool:
        """Whether an image of this class is asked about."""
        return True

    @abstractmethod
    def reference(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The class of each image that is compared with others, `[batch]`. logits: at the images."""

    @abstractmethod
    def others(self, logits: int, classes: int) -> slice | list[int]:
        """An index of the logits that are a rival of some reference; logits: how many there are."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """A smooth `violation`, `[batch]`, with the direction of the cross-entropy's gradient."""

    def violation(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """How far points with these logits violate the claim, `[batch]`: negative where it is true."""
        reference = self.reference(logits, labels, classes)
        return -self.margin(logits.gather(1, reference[:, None]) - logits, reference, classes)

    def violation_by(self, logits: Tensor, labels: Tensor, rivals: Tensor, classes: int) -> Tensor:
        """The same, counting only violations that one rival has a part in, `[batch]`. rivals: which one, `[batch]`."""
        reference = self.reference(logits, labels, classes)
        differences = logits - logits.gather(1, reference[:, None])
        own = differences.gather(1, rivals[:, None])
        helpers = self.rivals(reference, logits.shape[1], classes).scatter(1, rivals[:, None], False)[:, :classes]
        helping = differences[:, :classes].masked_fill(~helpers, -torch.inf).topk(self.spare).values
        helping = helping.masked_fill(rivals[:, None] >= classes, torch.inf)
        return torch.cat((own, helping), 1).amin(1)

    def rivals(self, reference: Tensor, logits: int, classes: int) -> Tensor:
        """Which logits the reference is compared with, boolean `[batch, logits]`."""
        found = torch.zeros(len(reference), logits, dtype=torch.bool, device=reference.device)
        found[:, self.others(logits, classes)] = True
        return found.scatter(1, reference[:, None], False)

    def holds(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Whether the claim is true at points with these logits, `[batch]`; a tie is not enough, NaN is never."""
        reference = self.reference(logits, labels, classes)
        own = logits.gather(1, reference[:, None])
        failing = ~(own > logits) & self.rivals(reference, logits.shape[1], classes)
        few = (failing[:, :classes].sum(1) <= self.spare) & ~failing[:, classes:].any(1)
        return few & torch.isfinite(own[:, 0]) & ~logits.isnan().any(1)

    def margin(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """The bound that decides, `[batch]`: the claim is proved where it is `positive`. bounds: `[batch, logits]`."""
        ranked = self._ranked(bounds, reference, classes)
        least = ranked[:, :classes].kthvalue(self.spare + 1, 1).values
        return torch.minimum(least, ranked[:, classes:].amin(1)) if ranked.shape[1] > classes else least

    def open(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """Which bounds have to become better for a proof, boolean `[batch, logits]`: the worst are spared."""
        ranked = self._ranked(bounds, reference, classes)
        found = self.rivals(reference, bounds.shape[1], classes) & ~positive(bounds)
        spared = ranked[:, :classes].topk(self.spare, largest=False).indices
        return found.scatter(1, spared, False)

    def _ranked(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """The bounds, -inf where they are not finite, inf where there is no rival."""
        known = torch.where(torch.isfinite(bounds), bounds, -torch.inf)
        return torch.where(self.rivals(reference, bounds.shape[1], classes), known, torch.inf)


@dataclass(frozen=True)
class Top(Specification):
    """The label stays among the `count` largest logits, strictly: fewer than `count` other classes reach its logit."""

    count: int = 1

    @property
    def spare(self) -> int:
        return self.count - 1

    @property
    def words(self) -> str:
        return f"the label stays {'first' if self.count == 1 else f'among the {self.count} largest logits'}"

    @property
    def name(self) -> str:
        return "accuracy" if self.count == 1 else f"top {self.count}"

    @property
    def broken(self) -> str:
        return "misclassified" if self.count == 1 else f"not in the top {self.count}"

    def to_json(self) -> dict[str, int]:
        return {"top": self.count}

    def check(self, classes: int) -> None:
        if not 1 <= self.count < classes:
            raise InvalidInput(f"top {self.count}: the network has {classes} classes; give 1 to {classes - 1}")

    def reference(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        return labels

    def others(self, logits: int, classes: int) -> slice | list[int]:
        return slice(logits)

    def loss(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """`logsumexp of the others, without those that are spared, - own logit`.

        It has the direction of the cross-entropy's gradient but does not vanish where the network is confident.
        """
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        others = logits.masked_fill(own, -torch.inf)
        spared = others[:, :classes].topk(self.spare).indices
        return torch.logsumexp(others.scatter(1, spared, -torch.inf), 1) - logits[own]


FIRST = Top()
"""What is claimed unless something else is asked: the network keeps its answer, the label."""


@dataclass(frozen=True)
class Never(Specification):
    """The network never answers the class `target`: another logit is strictly larger at every point.

    The reference is the largest other logit at the image itself, which is the network's answer there unless the claim
    is false already.
    """

    target: int

    @property
    def words(self) -> str:
        return f"the network never answers class {self.target}"

    @property
    def name(self) -> str:
        return f"never {self.target}"

    @property
    def broken(self) -> str:
        return f"answered {self.target} already (or tied)"

    def to_json(self) -> dict[str, int]:
        return {"never": self.target}

    def check(self, classes: int) -> None:
        if not 0 <= self.target < classes:
            raise InvalidInput(f"target {self.target}: the network has classes 0 to {classes - 1}")

    def asks(self, label: int) -> bool:
        return label != self.target

    def reference(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        kept = self._kept(logits, classes)
        return kept[logits[:, kept].argmax(1)]

    def others(self, logits: int, classes: int) -> slice | list[int]:
        return [self.target, *range(classes, logits)]

    def loss(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """`own logit of the target - logsumexp of the other classes`."""
        return logits[:, self.target] - torch.logsumexp(logits[:, self._kept(logits, classes)], 1)

    def _kept(self, logits: Tensor, classes: int) -> Tensor:
        """All classes but the target."""
        return torch.tensor([j for j in range(classes) if j != self.target], device=logits.device)


def stated(specification: Specification, within: PixelRange | None) -> dict[str, Any]:
    """The claim as files state it, with the range of pixels it is restricted to where it is."""
    return specification.to_json() if within is None else {**specification.to_json(), "within": list(within.texts)}


def positive(margin: Tensor) -> Tensor:
    """Whether a margin's lower bound proves the claim: finite and strictly positive; NaN and infinity do not."""
    return (margin > 0) & torch.isfinite(margin)
