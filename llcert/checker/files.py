"""Reads the files of a certificate as if an enemy had written them (docs/certificate.md, sections 1 and 1.4).

Sizes are capped before anything is unpacked, nothing is unpickled, and every array is checked for kind, size, NaN and
infinity when it is looked up.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llcert.checker.numbers import Vector

Integers = NDArray[np.int64]
LARGEST, LARGEST_JSON = 2**33, 2**28
"""Most bytes of a file, packed or unpacked."""
EXPANSION = 1100
"""How many times its own size an archive may unpack to: a little more than deflation can save."""


class InvalidCertificate(Exception):
    """Files that are no certificate, or one that does not hold; one line: which file or rule, and why."""


class Rejected(InvalidCertificate):
    """A rule that does not hold, named in one line; it rejects an image."""


def require(holds: object, step: str) -> None:
    """Raises Rejected, naming the step, unless it holds. NaN fails every comparison, so NaN is rejected."""
    if not holds:
        raise Rejected(step)


def valid(holds: object, complaint: str) -> None:
    """Raises InvalidCertificate with this complaint about a file unless it holds."""
    if not holds:
        raise InvalidCertificate(complaint)


def read(folder: Path, name: str) -> bytes:
    """The bytes of a file of the folder, read once: hash and content are taken from the same bytes."""
    most = LARGEST_JSON if name.endswith(".json") else LARGEST
    try:
        _regular(os.stat(folder / name), name)  # before it is opened: to open a device may have effects
        with open(folder / name, "rb", opener=_without_waiting) as file:
            _regular(os.fstat(file.fileno()), name)
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise InvalidCertificate(
            f"{name}: cannot be read ({getattr(error, 'strerror', None) or 'no such name'})"
        ) from None
    valid(len(content) <= most, f"{name}: larger than {most} bytes")
    return content


def _regular(found: os.stat_result, name: str) -> None:
    """Refuses pipes, devices and folders."""
    valid(stat.S_ISREG(found.st_mode), f"{name}: not a regular file")


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file without waiting for a writer, in case it has been replaced by a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_checked(folder: Path, name: str, hashes: Mapping[str, Any]) -> bytes:
    """The bytes of a file of the folder, rejected unless certificate.json has their SHA-256."""
    require(name in hashes, f"{name}: its SHA-256 is missing from certificate.json")
    content = read(folder, name)
    found = hashlib.sha256(content).hexdigest()
    require(found == hashes[name], f"{name}: its SHA-256 is not the one in certificate.json")
    return content


def parse_json(name: str, content: bytes, *, newest: int = 1) -> dict[str, Any]:
    """The object in a JSON file of format 1 to `newest`. NaN, infinity and keys that occur twice are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        valid(len(found) == len(pairs), f"{name}: a key is there twice")
        return found

    def refuse(number: str) -> None:
        raise InvalidCertificate(f"{name}: {number} is no number")

    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidCertificate(f"{name}: no JSON ({type(error).__name__})") from None
    valid(isinstance(found, dict), f"{name}: not an object")
    known = type(found.get("format")) is int and 1 <= found["format"] <= newest
    valid(known, f"{name}: not of format {' or '.join(map(str, range(1, newest + 1)))}")
    return found


@dataclass(frozen=True)
class Arrays:
    """The arrays of an npz file by name. Every look-up checks kind, size and that numbers are finite.

    file: its name, for complaints.
    """

    file: str
    found: Mapping[str, NDArray[Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.found

    @property
    def entries(self) -> int:
        """The number of entries of all arrays together."""
        return sum(values.size for values in self.found.values())

    def first(self) -> Arrays:
        """The evidence of first regions (section 2.3), by the names that the other regions have, whose centres they
        share."""
        prefix = "first."
        held = {n.removeprefix(prefix): values for n, values in self.found.items() if n.startswith(prefix)}
        return Arrays(self.file, held | {n: values for n, values in self.found.items() if n.endswith(".centre")})

    def vector(self, name: str, size: int | None = None, *, infinite: bool = False) -> Vector:
        """An array of `size` numbers in float64, of any size where it is None; NaN is refused, and infinity unless
        allowed."""
        values = self._flat(name, "f", size).astype(np.float64)
        valid(not np.isnan(values).any() if infinite else np.isfinite(values).all(), f"{self.file}: {name}: NaN or inf")
        return values

    def rows(self, name: str, count: int, size: int, portion: slice) -> Vector:
        """A portion of `count` rows of `size` finite numbers that are stored one after the other, `[portion, size]`."""
        values = self._flat(name, "f", count * size).reshape(count, size)[portion].astype(np.float64)
        valid(np.isfinite(values).all(), f"{self.file}: {name}: NaN or inf")
        return values

    def positive(self, name: str, size: int | None = None) -> Vector:
        """An array of finite numbers >= 0 in float64."""
        values = self.vector(name, size)
        valid(np.all(values >= 0), f"{self.file}: {name}: a number < 0")
        return values

    def scalar(self, name: str) -> float:
        """One finite number >= 0."""
        return float(self.positive(name, 1)[0])

    def integers(self, name: str, size: int | None, limit: int, *, least: int = 0) -> Integers:
        """An array of integers in [least, limit)."""
        values = self._flat(name, "i", size).astype(np.int64)
        right = np.all((values >= least) & (values < limit))
        valid(right, f"{self.file}: {name}: an integer outside [{least}, {limit})")
        return values

    def _flat(self, name: str, kind: str, size: int | None) -> NDArray[Any]:
        """A one-dimensional array of `size` numbers, as it is stored; kind: of its type, "f" or "i"."""
        valid(name in self.found, f"{self.file}: {name} is missing")
        values = self.found[name]
        valid(values.dtype.kind == kind, f"{self.file}: {name}: numbers of type {values.dtype}")
        values = values.reshape(1) if values.ndim == 0 else values
        valid(
            values.ndim == 1 and size in (None, values.size), f"{self.file}: {name}: shape {values.shape}, not {size}"
        )
        return values


def parse_npz(name: str, content: bytes) -> Arrays:
    """The arrays in an npz file. Each must be of integers or floats, in C order, as long as its header says."""
    most = min(LARGEST, EXPANSION * len(content))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            packed = all(m.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members)
            valid(packed, f"{name}: an array is neither stored nor deflated")
            valid(sum(m.file_size for m in members) <= most, f"{name}: unpacks to more than {most} bytes")
            found = {m.filename.removesuffix(".npy"): _array(name, m.filename, archive.read(m)) for m in members}
    except InvalidCertificate:
        raise
    except Exception as error:  # zipfile and its decoders do not say what they raise
        raise InvalidCertificate(f"{name}: no npz archive ({type(error).__name__})") from None
    valid(len(found) == len(members), f"{name}: an array is there twice")
    return Arrays(name, found)


def _array(file: str, name: str, content: bytes) -> NDArray[Any]:
    """The array in the bytes of an npy file, a member of `file`."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    valid(version in ((1, 0), (2, 0)), f"{file}: {name}: unknown format")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = header(stream)
    except Exception:  # the header is a Python literal: whatever reading it raises, it is no header
        raise InvalidCertificate(f"{file}: {name}: no header of an array") from None
    valid(dtype.kind in "if" and dtype.itemsize <= 8 and not (fortran and len(shape) > 1), f"{file}: {name}: {dtype}")
    valid(all(type(n) is int and n >= 0 for n in shape), f"{file}: {name}: a negative size")
    body = content[stream.tell() :]
    valid(math.prod(shape) * dtype.itemsize == len(body), f"{file}: {name}: not as long as its header says")
    return np.frombuffer(body, dtype).reshape(shape)
