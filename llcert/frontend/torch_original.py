"""A module, or a saved torch program, as torch runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir import Original

_TIE = 1e-5
"""How far, relatively, rounding in a softmax may part two outputs whose logits are equal."""

_SEVERAL = 2
"""Images a run has at least where their number is free: torch traces graphs for two and more."""


@dataclass(frozen=True, eq=False)
class TorchOriginal(Original):
    """What torch itself answers.

    answer: of a batch of images, whatever the module returns. inner: the logits in front of what was removed, computed
    by torch's operators one by one; None where the answer is the logits. shape: of an image. batch: how many images a
    run takes, None for any number.
    """

    runtime: str
    computes: torch.dtype
    batch: int | None
    classes: int
    source: str
    shape: tuple[int, ...]
    answer: Callable[[Tensor], Any]
    inner: Callable[[Tensor], Tensor] | None = None

    @property
    def name(self) -> str:
        return self.runtime

    @property
    def variants(self) -> tuple[Original, ...]:
        alone = replace(self, batch=1, runtime=f"{self.runtime}, one image at a time")
        return (alone,) if self.batch is None and alone._answers else ()

    @property
    def _answers(self) -> bool:
        """Whether it has an answer at all; a module may insist on several images."""
        try:
            self.logits(torch.zeros(1, *self.shape))
        except UnsupportedModel:
            return False
        return True

    @property
    def dtype(self) -> torch.dtype:
        return self.computes

    @property
    def together(self) -> int:
        return self.batch or 1

    def logits(self, images: Tensor) -> Tensor:
        images = images.detach().to("cpu", self.computes)
        rows = self.batch or max(len(images), _SEVERAL)
        with torch.no_grad():
            parts = [self._run(part, rows) for part in images.split(rows)]
        return torch.cat(parts) if parts else torch.zeros(0, self.classes)

    def _run(self, images: Tensor, rows: int) -> Tensor:
        """Of at most `rows` images, the last one repeated where they are fewer."""
        padded = torch.cat((images, images[-1:].expand(rows - len(images), *images.shape[1:])))
        answer = self._values(self.answer, padded)
        if self.inner is None:
            return answer[: len(images)]
        logits = self._values(self.inner, padded)
        agrees = self._agrees(logits, answer)
        return torch.where(agrees[:, None], logits, torch.nan)[: len(images)]

    def _values(self, compute: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        try:
            answer = compute(images.clone())
        except Exception as error:  # the user's forward may raise anything
            raise UnsupportedModel(f"{self.source}: fails on {len(images)} images: {_first_line(error)}") from error
        while not isinstance(answer, Tensor):
            answer = next(iter(answer.values() if isinstance(answer, Mapping) else answer))
        rows = 1 if len(images) == 1 and answer.dim() < 2 else len(answer)  # the batch's axis may be squeezed out
        if rows != len(images) or answer.numel() not in (len(images), len(images) * self.classes):
            raise UnsupportedModel(
                f"{self.source}: returns {tuple(answer.shape)} for {len(images)} images; one row an image please"
            )
        return answer.detach().cpu().reshape(len(images), -1)

    def _agrees(self, logits: Tensor, answer: Tensor) -> Tensor:
        """Whether the answer has its largest value, or its label, where the logits have theirs, `[images]`."""
        best = logits.amax(1)
        if answer.shape[1] == 1:
            label = answer[:, 0].long()
            inside = (label >= 0) & (label < self.classes)
            return inside & (logits.gather(1, label.clamp(0, self.classes - 1)[:, None])[:, 0] == best)
        own, highest = answer.gather(1, logits.argmax(1)[:, None])[:, 0], answer.amax(1)
        return own >= highest - _TIE * highest.abs()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
