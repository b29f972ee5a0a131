"""What a report says before the first image: network, data, specification and settings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from llcert.certification import Radii, Settings


@dataclass(frozen=True)
class Layer:
    """One term of one block of the network.

    operator: its operators, as in `Conv + ReLU`. global_norm: estimate of the unmasked map's norm, times the largest
    slope of the activation.
    """

    name: str
    operator: str
    global_norm: float


@dataclass(frozen=True)
class Subject:
    """The network, the data, the specification and the settings of one certification.

    eps_text: the radius as the user wrote it, or the file of the radii. selection: the chosen images, as `A:B`; asked:
    how many of them are certified; left_out: how many the specification is not about. layers: of the network.
    clippable: whether `--clip-input` would claim less. parity: relative difference between network and file on test
    inputs, None where there was no comparison. normalisation: one sentence. notes: what the importer did. warnings:
    signs that the run is not what the user meant.
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
        """The specification, as the end of a sentence about every point of the ball."""
        within = self.settings.within
        limit = "" if within is None else f", as long as all pixels stay in {within.words}"
        return f"{self.settings.specification.words}{limit}"

    @property
    def middle_eps(self) -> float:
        """The radius, or the median of the radii."""
        eps = self.settings.eps
        return statistics.median(eps.values) if isinstance(eps, Radii) else eps
