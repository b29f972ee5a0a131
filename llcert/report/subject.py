"""What a certification is about: network, data, specification and settings, as a report states them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from llcert.certify import FIRST, Assurance, AttackKind, Eps, Radii, Semantics, Specification
from llcert.region import UNIT, PixelRange


@dataclass(frozen=True)
class Layer:
    """One term of one block of the network. global_norm: of the unmasked map, its activation's slope included."""

    name: str
    operator: str
    global_norm: float


@dataclass(frozen=True)
class Subject:
    """What was asked, and what is known before the first image.

    eps: radius in pixel units, of all images or of each; eps_text: as the user wrote it, or where the radii come from.
    asked: how many images are asked about; selection: from which, as `A:B`; left_out: how many of these are not.
    attack: of which kind. clip_input: whether the claim is about points in the pixel range alone; clippable: whether
    that would be less. normalisation: one sentence. notes: what the importer did. warnings: what a user should not
    overlook.
    """

    model: str
    model_sha256: str | None
    weights_sha256: str
    eps: Eps
    eps_text: str
    data: str
    split: str
    selection: str
    asked: int
    classes: int
    assurance: Assurance
    semantics: Semantics
    delta: float
    stages: tuple[str, ...]
    layers: tuple[Layer, ...]
    global_lipschitz: float
    normalisation: str
    device: str
    dtype: str
    batch_size: int
    seed: int
    versions: Mapping[str, str]
    attack: AttackKind = AttackKind.TARGETED
    clippable: bool = True
    parity: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    specification: Specification = FIRST
    left_out: int = 0
    pixel_range: PixelRange = UNIT
    clip_input: bool = False

    @property
    def within(self) -> PixelRange | None:
        """The range of pixels that the claim is restricted to; None where it is about whole balls."""
        return self.pixel_range if self.clip_input else None

    @property
    def claim_words(self) -> str:
        """What is claimed, as the end of a sentence about every point of the ball."""
        limit = f", as long as all pixels stay in {self.pixel_range.words}" if self.clip_input else ""
        return f"{self.specification.words}{limit}"

    @property
    def middle_eps(self) -> float:
        """The radius, or the median of the radii."""
        return statistics.median(self.eps.values) if isinstance(self.eps, Radii) else self.eps
