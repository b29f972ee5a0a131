"""Specifications: what is claimed of the logits at every point of a ball, and which margins `z_y - z_j` prove it
(docs/method.md, section 13).
"""

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
    one for each logit j; NaN and infinity among them prove nothing. Methods that take labels take the references at the
    images as well, to the same effect.
    """

    @property
    def spare(self) -> int:
        """How many rival classes the reference need not exceed."""
        return 0

    @property
    @abstractmethod
    def words(self) -> str:
        """The property, as the end of a sentence about every point of the ball."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the share of images that have the property."""

    @property
    @abstractmethod
    def misclassified_word(self) -> str:
        """The word for an image that does not have the property itself."""

    @property
    @abstractmethod
    def role(self) -> str:
        """The key by which files state the reference of an image."""

    @abstractmethod
    def to_json(self) -> dict[str, int]:
        """The key and value by which files state it."""

    @abstractmethod
    def check(self, classes: int) -> None:
        """Raises InvalidInput where the property is meaningless or trivial for a network of so many classes."""

    def asks(self, label: int) -> bool:
        """Whether the property is certified of images with this label."""
        return True

    @abstractmethod
    def reference(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """The reference class of each image, `[batch]`. logits: at the images, `[batch, logits]`."""

    @abstractmethod
    def others(self, logits: int, classes: int) -> slice | list[int]:
        """An index of the logits that are a rival of any reference. logits: how many there are."""

    def on_all_logits(self, bounds: Tensor, logits: int, classes: int) -> Tensor:
        """Bounds for the logits in `others`, `[batch, others]`, as bounds for all of them, `[batch, logits]`: -inf for
        the rest, which proves nothing."""
        found = bounds.new_full((len(bounds), logits), -torch.inf)
        found[:, self.others(logits, classes)] = bounds
        return found

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """A smooth `violation`, `[batch]`: the largest rival logit replaced by a log-sum-exp."""

    def violation(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """How far points with these logits violate the property, `[batch]`: negative where they have it."""
        reference = self.reference(logits, labels, classes)
        return -self.margin(logits.gather(1, reference[:, None]) - logits, reference, classes)

    def violation_by(self, logits: Tensor, labels: Tensor, rivals: Tensor, classes: int) -> Tensor:
        """The least violation that includes one rival, `[batch]`: of its logit and the `spare` largest other rivals'.

        rivals: which one, `[batch]`.
        """
        reference = self.reference(logits, labels, classes)
        differences = logits - logits.gather(1, reference[:, None])
        own = differences.gather(1, rivals[:, None])
        helpers = self.rivals(reference, logits.shape[1], classes).scatter(1, rivals[:, None], False)[:, :classes]
        helping = differences[:, :classes].masked_fill(~helpers, -torch.inf).topk(self.spare).values
        helping = helping.masked_fill(rivals[:, None] >= classes, torch.inf)
        return torch.cat((own, helping), 1).amin(1)

    def rivals(self, reference: Tensor, logits: int, classes: int) -> Tensor:
        """The logits that the reference is compared with, boolean `[batch, logits]`."""
        found = torch.zeros(len(reference), logits, dtype=torch.bool, device=reference.device)
        found[:, self.others(logits, classes)] = True
        return found.scatter(1, reference[:, None], False)

    def holds(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Whether points with these logits have the property, boolean `[batch]`; never true of a tie or of NaN."""
        reference = self.reference(logits, labels, classes)
        own = logits.gather(1, reference[:, None])
        failing = ~(own > logits) & self.rivals(reference, logits.shape[1], classes)
        few = (failing[:, :classes].sum(1) <= self.spare) & ~failing[:, classes:].any(1)
        return few & torch.isfinite(own[:, 0]) & ~logits.isnan().any(1)

    def margin(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """The deciding bound, `[batch]`: the property is proved where it is `positive`. bounds: `[batch, logits]`."""
        ranked = self._ranked(bounds, reference, classes)
        least = ranked[:, :classes].kthvalue(self.spare + 1, 1).values
        return torch.minimum(least, ranked[:, classes:].amin(1)) if ranked.shape[1] > classes else least

    def open(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """The bounds that must become positive for a proof, boolean `[batch, logits]`: all but the `spare` lowest."""
        ranked = self._ranked(bounds, reference, classes)
        found = self.rivals(reference, bounds.shape[1], classes) & ~positive(bounds)
        spared = ranked[:, :classes].topk(self.spare, largest=False).indices
        return found.scatter(1, spared, False)

    def _ranked(self, bounds: Tensor, reference: Tensor, classes: int) -> Tensor:
        """The bounds of rivals, -inf where they are not finite; inf for logits that are no rival."""
        finite = torch.where(torch.isfinite(bounds), bounds, -torch.inf)
        return torch.where(self.rivals(reference, bounds.shape[1], classes), finite, torch.inf)


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
    def misclassified_word(self) -> str:
        return "misclassified" if self.count == 1 else f"not in the top {self.count}"

    @property
    def role(self) -> str:
        return "label"

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
        """`logsumexp of the rivals - own logit`, without the `spare` largest classes.

        It has the direction of the cross-entropy's gradient, and does not vanish where the network is confident.
        """
        own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
        others = logits.masked_fill(own, -torch.inf)
        spared = others[:, :classes].topk(self.spare).indices
        return torch.logsumexp(others.scatter(1, spared, -torch.inf), 1) - logits[own]


FIRST = Top()
"""The specification unless another one is asked for: the label stays the largest logit."""


@dataclass(frozen=True)
class Never(Specification):
    """The network never answers the class `excluded`: at every point another logit is strictly larger.

    The reference is the class of the largest other logit at the image itself.
    """

    excluded: int

    @property
    def words(self) -> str:
        return f"the network never answers class {self.excluded}"

    @property
    def name(self) -> str:
        return f"never {self.excluded}"

    @property
    def misclassified_word(self) -> str:
        return f"answered {self.excluded} already (or tied)"

    @property
    def role(self) -> str:
        return "reference"

    def to_json(self) -> dict[str, int]:
        return {"never": self.excluded}

    def check(self, classes: int) -> None:
        if not 0 <= self.excluded < classes:
            raise InvalidInput(f"target {self.excluded}: the network has classes 0 to {classes - 1}")

    def asks(self, label: int) -> bool:
        return label != self.excluded

    def reference(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        kept = self._kept(logits, classes)
        return kept[logits[:, kept].argmax(1)]

    def others(self, logits: int, classes: int) -> slice | list[int]:
        return [self.excluded, *range(classes, logits)]

    def loss(self, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
        """`logit of the excluded class - logsumexp of the other classes`."""
        return logits[:, self.excluded] - torch.logsumexp(logits[:, self._kept(logits, classes)], 1)

    def _kept(self, logits: Tensor, classes: int) -> Tensor:
        """All classes but the excluded one."""
        return torch.tensor([j for j in range(classes) if j != self.excluded], device=logits.device)


def claim_json(specification: Specification, within: PixelRange | None) -> dict[str, Any]:
    """The specification as files state it, with the pixel range that it is restricted to, if it is."""
    return specification.to_json() if within is None else {**specification.to_json(), "within": list(within.texts)}


def positive(margin: Tensor) -> Tensor:
    """Whether lower bounds of margins prove a specification: finite and strictly positive; NaN and infinity do not."""
    return (margin > 0) & torch.isfinite(margin)
