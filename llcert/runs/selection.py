"""Which images of a data set are certified (`--samples`, `--target`), and with which radii (`--eps-file`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llcert.certification import Eps, Radii, Settings
from llcert.data import Dataset, select
from llcert.errors import InvalidInput
from llcert.options import Options


@dataclass(frozen=True)
class Selection:
    """The images of a certification.

    chosen: the range of images asked for. indices: of those among them that the specification is about. settings: with
    the radii of the chosen images, where each has its own.
    """

    dataset: Dataset
    chosen: range
    indices: Sequence[int]
    settings: Settings

    @property
    def text(self) -> str:
        """`A:B`, the range of the chosen images."""
        return f"{self.chosen.start}:{self.chosen.stop}"

    @property
    def left_out(self) -> int:
        """How many chosen images the specification is not about."""
        return len(self.chosen) - len(self.indices)


def select_images(options: Options, settings: Settings, dataset: Dataset) -> Selection:
    """The images that the options choose.

    Raises InvalidInput where the specification is about none of them, where radii and images differ in number, and
    where an image leaves the pixel range that the specification is restricted to.
    """
    chosen = select(options.samples, len(dataset))
    settings = replace(settings, eps=_of_chosen(settings.eps, options, dataset, chosen))
    specification = settings.specification
    indices = [i for i in chosen if specification.asks(int(dataset.labels[i]))]
    if not indices:
        raise InvalidInput(f"{specification.name}: every chosen image has that label, so there is none to ask about")
    whole = len(indices) == len(chosen)
    selection = Selection(dataset, chosen, chosen if whole else tuple(indices), settings)
    _check_range(selection)
    return selection


def _of_chosen(eps: Eps, options: Options, dataset: Dataset, chosen: range) -> Eps:
    """The radii of the chosen images, from a list for all images of the data set or for the chosen ones alone."""
    if not isinstance(eps, Radii):
        return eps
    if len(eps.values) == len(dataset):
        return eps.part(chosen.start, chosen.stop)
    if len(eps.values) == len(chosen):
        return replace(eps, first=chosen.start)
    raise InvalidInput(
        f"{options.eps_file or 'eps'}: holds {len(eps.values)} radii; {dataset.name} holds {len(dataset)} images"
        f"{'' if len(chosen) == len(dataset) else f', of which {len(chosen)} are chosen'}"
    )


def _check_range(selection: Selection) -> None:
    within = selection.settings.within
    if within is None:
        return
    low, high = selection.dataset.images.pixel_range_of(selection.indices)
    if not within.covers(low, high):
        raise InvalidInput(
            f"--clip-input: pixels of {selection.dataset.name} run from {low:.6g} to {high:.6g}, outside "
            f"{within.words}; give --range LOW,HIGH, what a pixel of this data may be"
        )
