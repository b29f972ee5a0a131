"""`.npz` files: images `x` and labels `y`."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from llcert.data.dataset import ArrayImages, Dataset, Labels, Pixels, narrowest
from llcert.data.reading import read_capped, readable, reading
from llcert.errors import InvalidInput

_LIMIT = 2 << 30
_MAX_DIMENSIONS = 8


def load_npz(path: Path) -> Dataset:
    """The file's images and labels.

    `x`: `[images, *shape]`, uint8 (255 stands for 1) or floating point (taken as it is); `y`: `[images]`, whole
    numbers. Other arrays are ignored. Raises InvalidInput for anything else, also for NaN, Inf and pickled objects.
    """
    with reading(path, "npz file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on old headers
        with zipfile.ZipFile(path) as archive:
            images, labels = _array(archive, "x", path), _array(archive, "y", path)
    pixels = as_images(images, path)
    counted = checked_labels(labels, path)
    if len(pixels) != len(counted):
        raise InvalidInput(f"{path}: x holds {len(pixels)} images, y holds {len(counted)} labels")
    return Dataset(str(path), "all", pixels, counted, int(counted.max()) + 1, pixels.shape, note=str(path))


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> Pixels:
    """One member of an archive."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise InvalidInput(f"{path}: holds no array {name!r}; images are expected as 'x', labels as 'y'")
    with archive.open(readable(archive.getinfo(member), path)) as stream:
        return read_array(stream, path, name)


def read_array(stream: IO[bytes], path: Path, name: str) -> Pixels:
    """The array in a stream of npy format, its header compared with its size before so much is allocated.

    name: of the array, for the message of InvalidInput where it is no plain array of numbers.
    """
    shape, fortran, dtype = _header(stream)
    if dtype.hasobject or len(shape) > _MAX_DIMENSIONS or any(side < 0 for side in shape):
        raise InvalidInput(f"{path}: {name!r} is not a plain array of numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > _LIMIT:
        raise InvalidInput(f"{path}: {name!r} takes {size:,} bytes, more than {_LIMIT:,}; store it as uint8, or parts")
    content = read_capped(stream, size, f"{path}/{name}")
    if len(content) != size:
        raise InvalidInput(f"{path}: {name!r} announces {size:,} bytes and holds {len(content):,}")
    return np.ndarray(shape, dtype, content, order="F" if fortran else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    return npy.read_array_header_2_0(stream)


def as_images(values: Pixels, path: Path | str) -> ArrayImages:
    """Images of uint8 or floating point `[images, *shape]`, none of them rounded.

    Raises InvalidInput where they are none, not finite, or more precise than float64.
    """
    if values.ndim < 2 or 0 in values.shape:
        raise InvalidInput(f"{path}: x has shape {list(values.shape)}; expected [images, *shape], at least one image")
    if values.dtype == np.uint8:
        return ArrayImages(values, 255.0)
    if values.dtype.kind != "f" or values.dtype.itemsize > 8:
        raise InvalidInput(f"{path}: x holds {values.dtype}; store uint8 (0 .. 255), float32 or float64 ([0, 1])")
    return ArrayImages(narrowest(checked_pixels(values, path)))


def checked_pixels(pixels: Pixels, path: Path | str) -> Pixels:
    """The pixels; InvalidInput where one is NaN or infinite."""
    if not np.isfinite(pixels).all():
        first = int(np.argwhere(~np.isfinite(pixels))[0][0])
        raise InvalidInput(f"{path}: image {first} holds NaN or Inf")
    return pixels


def checked_labels(values: Pixels, path: Path) -> Labels:
    """The labels as int64 `[images]`; InvalidInput where they are no whole numbers from 0 on."""
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        raise InvalidInput(
            f"{path}: labels of type {values.dtype} {list(values.shape)}; expected whole numbers [images]"
        )
    if values.min() < 0 or values.max() >= 1 << 31:
        raise InvalidInput(f"{path}: labels run from {values.min()} to {values.max()}; expected classes from 0 on")
    return values.astype(np.int64)
