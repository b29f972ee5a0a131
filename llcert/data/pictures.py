"""JPEG, PNG and BMP pictures, decoded when they are asked for."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from llcert.data.dataset import Pixels, levels
from llcert.data.reading import reading
from llcert.errors import InvalidInput

FORMATS = ("JPEG", "PNG", "BMP")
_GREY = ("1", "L")
_MODES = (*_GREY, "P", "RGB")
_MAX_PIXELS = 1 << 24


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise InvalidInput("pictures are decoded by Pillow, which is not installed: pip install pillow") from None
    return Image


@dataclass(frozen=True)
class Header:
    """What a picture says about itself before it is decoded."""

    width: int
    height: int
    grey: bool


def header(content: bytes, path: Path | str) -> Header:
    """The size of the picture and whether it is grey; InvalidInput where it is no picture llcert reads."""
    with reading(path, "picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata that is not read
        with _pillow().open(io.BytesIO(content), formats=FORMATS) as picture:
            mode, (width, height) = picture.mode, picture.size
            transparent = "transparency" in picture.info
    if mode not in _MODES or transparent:
        kind = "transparency" if transparent else f"mode {mode}"
        raise InvalidInput(f"{path}: a picture with {kind}; save it as 8-bit grey or RGB")
    if width * height > _MAX_PIXELS:
        raise InvalidInput(f"{path}: {width} x {height} pixels are more than {_MAX_PIXELS:,}")
    return Header(width, height, mode in _GREY)


def common_shape(headers: Iterable[tuple[str, Header]]) -> tuple[int, int, int]:
    """The `(channels, height, width)` that all these pictures have; InvalidInput where two differ in size.

    headers: name and header of each. One channel where every picture is grey, else three.
    """
    sizes: dict[tuple[int, int], str] = {}
    channels = 1
    for name, found in headers:
        sizes.setdefault((found.height, found.width), name)
        channels = channels if found.grey else 3
        if len(sizes) > 1:
            (first, one), (second, other) = sizes.items()
            raise InvalidInput(f"{other}: {second[1]} x {second[0]} pixels, where {one} has {first[1]} x {first[0]}")
    ((height, width),) = sizes
    return channels, height, width


def decode(content: bytes, shape: tuple[int, int, int], path: Path | str) -> Pixels:
    """The picture as uint8 `[channels, height, width]`, grey ones repeated where the shape has three channels.

    Raises InvalidInput where it is damaged or of another size.
    """
    found, (channels, height, width) = header(content, path), shape
    if (found.height, found.width) != (height, width):
        raise InvalidInput(f"{path}: {found.width} x {found.height} pixels, where others have {width} x {height}")
    with reading(path, "picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _pillow().open(io.BytesIO(content), formats=FORMATS) as picture:
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Pictures kept as files or bytes and decoded batch by batch.

    names: one a picture, for `fetch` and for messages.
    fetch: the encoded pictures of these names, in this order.
    shape: `(channels, height, width)` of every one.
    """

    names: tuple[str, ...]
    fetch: Callable[[list[str]], list[bytes]]
    shape: tuple[int, int, int]

    def pixel_range_of(self, indices: Sequence[int]) -> tuple[float, float]:
        return 0.0, 1.0

    def __len__(self) -> int:
        return len(self.names)

    def stored(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            yield from self.fetch([self.names[index]])

    def read(self, indices: Sequence[int]) -> Pixels:
        names = [self.names[index] for index in indices]
        images = np.empty((len(names), *self.shape), np.uint8)
        for image, name, content in zip(images, names, self.fetch(names), strict=True):
            image[...] = decode(content, self.shape, name)
        return levels(images, 255.0)
