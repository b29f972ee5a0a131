"""One singular vector for each training image and layer, kept in low precision between the steps that improve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.bounds.forward.starts import nudged
from llcert.errors import InvalidInput
from llcert.machine.memory import free_memory
from llcert.program import Program, Term
from llcert_train.settings import WarmPlace, WarmType

_SHARE = 0.5
_TYPES = {WarmType.FLOAT16: torch.float16, WarmType.BFLOAT16: torch.bfloat16, WarmType.FLOAT32: torch.float32}


def iterated(program: Program) -> tuple[Term, ...]:
    """The terms whose norm takes an iteration, in order: the keys of all warm starts."""
    return tuple(t for block in program.blocks for t in block.terms if not t.is_scaled_permutation)


@dataclass(frozen=True)
class Room:
    """Where vectors of some images can lie: `place`, of a program on `device`."""

    terms: tuple[Term, ...]
    images: int
    kind: WarmType
    place: torch.device
    device: torch.device

    @staticmethod
    def of(program: Program, images: int, kind: WarmType, place: WarmPlace) -> Room:
        """Room for so many images: on the program's device, else in the host's memory.

        Raises InvalidInput where they fit nowhere.
        """
        terms = iterated(program)
        size = images * _entries(terms) * _TYPES[kind].itemsize
        return Room(terms, images, kind, _place(program.device, size, place), program.device)

    @property
    def pinned(self) -> bool:
        """Whether the memory is the host's, for a device."""
        return self.place.type == "cpu" and self.device.type == "cuda"

    @property
    def sentence(self) -> str:
        """Where they lie and what they take, for the user."""
        size = self.images * _entries(self.terms) * _TYPES[self.kind].itemsize / 2**20
        place = f"{self.place.type}{', pinned' if self.pinned else ''}"
        return (
            f"warm starts: {self.images:,} images x {len(self.terms)} layers as {self.kind}, {size:,.0f} MiB on {place}"
        )

    def starts(self) -> WarmStarts:
        """The room, taken; no image has a vector yet."""
        vectors = tuple(
            torch.zeros(self.images, *t.columns, dtype=_TYPES[self.kind], device=self.place, pin_memory=self.pinned)
            for t in self.terms
        )
        return WarmStarts(self.terms, vectors, torch.zeros(self.images, dtype=torch.bool), self.device)


def _entries(terms: tuple[Term, ...]) -> int:
    """The length of the vectors of an image, all together."""
    return sum(torch.Size(t.columns).numel() for t in terms)


@dataclass(frozen=True)
class WarmStarts:
    """Vectors of some images, `[images, *columns]` for each term, and which images have theirs already.

    Scaled by the root of their length, so that no entry of a typical vector vanishes in float16.
    """

    terms: tuple[Term, ...]
    vectors: tuple[Tensor, ...]
    seen: Tensor
    device: torch.device

    def load(self, positions: Tensor, unmasked: Mapping[Term, Tensor], seed: int) -> dict[Term, Tensor]:
        """The vectors of some images on the program's device; of one that has none, the whole map's and noise.

        positions: int64 `[batch]`, on the CPU. unmasked: `[1, *columns]` for each term.
        """
        known = self.seen[positions]
        found: dict[Term, Tensor] = {}
        for number, (term, vectors) in enumerate(zip(self.terms, self.vectors, strict=True)):
            chosen = self._chosen(vectors, positions).to(torch.float32)
            if not bool(known.all()):
                fresh = nudged(unmasked[term].to(chosen).expand_as(chosen), seed + number)
                old = known.to(self.device).reshape(-1, *[1] * len(term.columns))
                chosen = torch.where(old, chosen, fresh)
            found[term] = chosen
        return found

    def _chosen(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Some rows, on the program's device; by way of pinned memory where they come from the host's."""
        rows = positions.to(vectors.device)
        if not vectors.is_pinned():
            return vectors[rows].to(self.device)
        buffer = torch.empty((len(rows), *vectors.shape[1:]), dtype=vectors.dtype, pin_memory=True)
        return torch.index_select(vectors, 0, rows, out=buffer).to(self.device, non_blocking=True)

    def store(self, positions: Tensor, found: Mapping[Term, Tensor]) -> None:
        """Keeps the vectors of some images, `[batch, *columns]` for each term; terms without any are left alone."""
        if not found:
            return
        for term, vectors in zip(self.terms, self.vectors, strict=True):
            scaled = found[term] * torch.Size(term.columns).numel() ** 0.5
            vectors[positions.to(vectors.device)] = scaled.to(vectors.device, vectors.dtype)
        self.seen[positions] = True

    def state(self) -> dict[str, Tensor | Sequence[Tensor]]:
        """What a checkpoint keeps."""
        return {"vectors": list(self.vectors), "seen": self.seen}

    def restore(self, state: Mapping[str, Tensor | Sequence[Tensor]]) -> None:
        """Takes over what `state` returned, in place. Raises ValueError where the shapes are not these."""
        for own, other in zip((*self.vectors, self.seen), (*state["vectors"], state["seen"]), strict=True):
            if not isinstance(other, Tensor) or own.shape != other.shape:
                raise ValueError(f"warm starts of another shape than {list(own.shape)}")
            own.copy_(other)


def _place(device: torch.device, size: int, wanted: WarmPlace) -> torch.device:
    share = 1.0 if wanted is WarmPlace.DEVICE else _SHARE
    if wanted is not WarmPlace.HOST and size <= share * free_memory(device):
        return device
    host = torch.device("cpu")
    if wanted is WarmPlace.DEVICE or size > _SHARE * free_memory(host):
        limit = "all" if wanted is WarmPlace.DEVICE else "half"
        raise InvalidInput(
            f"warm starts take {size / 2**30:,.1f} GiB, more than {limit} of the memory that is free; "
            "use --start random, --warm-type float16, or fewer training images"
        )
    return host
