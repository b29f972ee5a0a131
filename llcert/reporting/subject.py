"""What a certification is about: network, data, specification and settings, as a report states them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from llcert.certification import Radii, Settings


@dataclass(frozen=True)
class Layer:
    """One term of one block of the network. global_norm: of the unmasked map, its activation's slope included."""

    name: str
    operator: str
    global_norm: float


@dataclass(frozen=True)
class Subject:
    """What is known before the first image.

    eps_text: the radius as the user wrote it, or where the radii come from. asked: how many images are certified;
    selection: from which, as `A:B`; left_out: how many of these are not. clippable: whether less would be claimed of
    points in the pixel range alone. normalisation: one sentence. notes: what the importer did. warnings: what a user
    should not overlook.
    """

    model: str
    model_sha256: str | None
    weights_sha256: str
    settings: Settings
    eps_text: str
    data: str
    split: str
    selection: str
    asked: int
    classes: int
    layers: tuple[Layer, ...]
    global_lipschitz: float
    normalisation: str
    device: str
    dtype: str
    batch_size: int
    versions: Mapping[str, str]
    clippable: bool = True
    parity: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def claim_words(self) -> str:
        """What is claimed, as the end of a sentence about every point of the ball."""
        within = self.settings.within
        limit = "" if within is None else f", as long as all pixels stay in {within.words}"
        return f"{self.settings.specification.words}{limit}"

    @property
    def middle_eps(self) -> float:
        """The radius, or the median of the radii."""
        eps = self.settings.eps
        return statistics.median(eps.values) if isinstance(eps, Radii) else eps
