"""Data sets as batches: images in [0, 1], labels and their indices."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llcert.errors import InvalidInput

Pixels = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

_AT_ONCE = 256
"""How many images are read together where a whole data set is read."""


class ImageSource(Protocol):
    """Images that may be decoded only when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""

    def pixel_range_of(self, indices: Sequence[int]) -> tuple[float, float]:
        """Lowest and highest value of these images, or of what they may hold where they are not decoded."""

    def __len__(self) -> int: ...

    def stored(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Bytes that identify these images, in order: equal for equal images alone."""

    def read(self, indices: Sequence[int]) -> Pixels:
        """Images `[len(indices), *shape]`: float32 where that holds all of the source exactly, else float64.

        Raises InvalidInput where one cannot be decoded.
        """


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images held as one array; bytes stay bytes until a batch is read.

    values: `[images, *shape]`, uint8, float32 or float64.
    scale: the value that stands for 1.0.
    """

    values: Pixels
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[1:])

    def pixel_range_of(self, indices: Sequence[int]) -> tuple[float, float]:
        ends = np.array([(part.min(), part.max()) for part in map(self._chosen, _parts(indices))], np.float64)
        return float(ends[:, 0].min()) / self.scale, float(ends[:, 1].max()) / self.scale

    def __len__(self) -> int:
        return len(self.values)

    def stored(self, indices: Sequence[int]) -> Iterator[bytes]:
        yield repr((self.values.dtype.str, self.scale)).encode()
        for part in _parts(indices):
            yield self._chosen(part).tobytes()

    def read(self, indices: Sequence[int]) -> Pixels:
        chosen = self._chosen(indices)
        return chosen if self.scale == 1 else levels(chosen, self.scale)

    def _chosen(self, indices: Sequence[int]) -> Pixels:
        found: Pixels = self.values[np.asarray(indices, dtype=np.int64)]
        return found


def _parts(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), _AT_ONCE):
        yield indices[start : start + _AT_ONCE]


def levels(values: Pixels, scale: float) -> Pixels:
    """`values / scale` of whole numbers up to 2^24: exact in float32 for a power of two, else the nearest float64."""
    exact = math.frexp(scale)[0] == 0.5
    return np.divide(values, scale, dtype=np.float32 if exact else np.float64)


def narrowest(values: Pixels) -> Pixels:
    """The same numbers, of at most 64 bits, as float32 if it holds all of them, else as float64."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    return short if np.array_equal(short, values) else values.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Subset:
    """Chosen images of another source, read when they are asked for; `subset` makes and checks one.

    positions: of each image in `source`, `[images]`.
    """

    source: ImageSource
    positions: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def pixel_range_of(self, indices: Sequence[int]) -> tuple[float, float]:
        return self.source.pixel_range_of(self._within(indices))

    def __len__(self) -> int:
        return len(self.positions)

    def stored(self, indices: Sequence[int]) -> Iterator[bytes]:
        return self.source.stored(self._within(indices))

    def read(self, indices: Sequence[int]) -> Pixels:
        return self.source.read(self._within(indices))

    def _within(self, indices: Sequence[int]) -> list[int]:
        found: list[int] = self.positions[np.asarray(indices, dtype=np.int64)].tolist()
        return found


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images of a data set.

    images: `[batch, *shape]`, float32 or float64, as `ImageSource.read`. labels, and indices (positions in the data
    set): int64 `[batch]`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one shape.

    labels: int64 `[images]`, each in `0 .. class_count - 1`.
    class_count: how many classes the source declares; where it declares none, one more than the largest label.
    note: where the images were read from, who made them, and their licence.
    """

    name: str
    split: str
    images: ImageSource
    labels: Labels
    class_count: int
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise InvalidInput(f"{self.name}: holds no images")
        if len(self.labels) != len(self.images):
            raise InvalidInput(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels")
        if any(side < 1 for side in self.image_shape) or math.prod(self.image_shape) != math.prod(self.images.shape):
            raise InvalidInput(
                f"{self.name}: images of shape {list(self.images.shape)} cannot be read as {list(self.image_shape)}"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.class_count:
            wrong = low if low < 0 else high
            raise InvalidInput(f"{self.name}: label {wrong} is outside 0 .. {self.class_count - 1}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Lowest and highest pixel value, in the unit of the batches."""
        return self.images.pixel_range_of(range(len(self)))

    def reshape(self, image_shape: tuple[int, ...]) -> Dataset:
        """The same data set with its images read in another shape of as many values; InvalidInput if it cannot be."""
        return dataclasses.replace(self, image_shape=image_shape)

    def sha256(self, indices: Sequence[int]) -> str:
        """SHA-256 of these images, undecoded, and of their labels. Raises InvalidInput where one cannot be read."""
        digest = hashlib.sha256(repr((self.image_shape, len(indices))).encode())
        digest.update(self.labels[np.asarray(indices, dtype=np.int64)].tobytes())
        for part in self.images.stored(indices):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()

    def batches(self, indices: Sequence[int], batch_size: int) -> Iterator[Examples]:
        """Batches of at most `batch_size` images in the order of `indices`; images are decoded as they are needed."""
        if batch_size < 1:
            raise InvalidInput(f"a batch of {batch_size} images: at least 1 is needed")
        for index in indices[:1], indices[-1:]:
            if index and not 0 <= index[0] < len(self):
                raise InvalidInput(f"{self.name}: image {index[0]} does not exist, the last is {len(self) - 1}")
        for start in range(0, len(indices), batch_size):
            yield self._batch(indices[start : start + batch_size])

    def _batch(self, chosen: Sequence[int]) -> Examples:
        positions = np.asarray(chosen, dtype=np.int64)
        images = self.images.read(chosen).reshape(len(chosen), *self.image_shape)
        return Examples(torch.from_numpy(images), torch.from_numpy(self.labels[positions]), torch.from_numpy(positions))


def subset(dataset: Dataset, positions: Sequence[int] | npt.NDArray[np.integer[Any]], split: str) -> Dataset:
    """The images of `dataset` at these positions, in this order, with its classes; no image is decoded or copied yet.

    The indices of its batches count within the subset. split: what its images are for, such as `train`.
    Raises InvalidInput where no position is given, one is no whole number, or one lies outside the data set.
    """
    within = _positions(dataset, np.asarray(positions))
    taken = f"{len(within):,} of {len(dataset):,} images"
    return dataclasses.replace(
        dataset,
        split=split,
        images=Subset(dataset.images, within),
        labels=dataset.labels[within],
        note=f"{dataset.note}; {taken}" if dataset.note else taken,
    )


def _positions(dataset: Dataset, given: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """`[images]`, each checked to lie in the data set."""
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InvalidInput(f"{dataset.name}: positions of type {given.dtype} {list(given.shape)}; give whole numbers")
    wrong = given[(given < 0) | (given >= len(dataset))]
    if wrong.size:
        raise InvalidInput(f"{dataset.name}: image {wrong[0]} does not exist, the last is {len(dataset) - 1}")
    return given.astype(np.int64)


_SAMPLES = re.compile(r"(?P<count>[0-9]{1,18})|(?P<start>[0-9]{0,18}):(?P<stop>[0-9]{0,18})")


def select(text: str | None, length: int) -> range:
    """The images that `text` asks for, out of `length`: `N` the first N, `A:B` from A up to but not B, None all.

    Raises InvalidInput where the text is neither, asks for no image, or for one that does not exist.
    """
    if text is None:
        return range(length)
    found = _SAMPLES.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"samples {text!r}: give N (the first N images) or A:B (from A up to, not including, B)")
    if found["count"] is not None:
        start, stop = 0, int(found["count"])
    else:
        start, stop = int(found["start"] or 0), int(found["stop"] or length)
    if stop > length:
        raise InvalidInput(f"samples {text!r}: the data set holds only {length} images")
    if start >= stop:
        raise InvalidInput(f"samples {text!r}: asks for no image")
    return range(start, stop)
