"""Reads `--eps-file`: a radius for each image, as text or as an `.npy` vector (docs/cli.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llcert.data.npz import read_array
from llcert.data.reading import decode_text, read_file, reading
from llcert.errors import InvalidInput
from llcert.options.text import parse_eps

_LIMIT = 1 << 28


def read_radii(path: Path) -> tuple[str, ...]:
    """The radii in a file in order, as text, each a finite number >= 0 or a fraction; pixel units.

    An `.npy` file holds a vector; any other is text with one number a line, and comments from `#` on. Raises
    InvalidInput, naming the file and the line or entry, for anything else, also for NaN, Inf and pickled objects.
    """
    found = []
    for place, text in _entries(path) if path.suffix.lower() == ".npy" else _lines(path):
        try:
            parse_eps(text)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {place}: {error}") from None
        found.append(text)
    if not found:
        raise InvalidInput(f"{path}: holds no radius; give one for each image")
    return tuple(found)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The place of each number in a text file, for messages, and its text."""
    for number, line in enumerate(decode_text(read_file(path, _LIMIT, "file of radii"), path).split("\n"), 1):
        text = line.partition("#")[0].strip()
        if text:
            yield f"line {number}", text


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """The same for an `.npy` vector; floating-point numbers become their shortest decimals."""
    if not path.is_file():
        raise InvalidInput(f"{path}: not a file")
    with reading(path, "npy file"), path.open("rb") as stream:
        values = read_array(stream, path, "radii")
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise InvalidInput(f"{path}: holds {values.dtype} {list(values.shape)}; expected a vector of numbers")
    for number, value in enumerate(values.tolist()):
        yield f"entry {number}", str(value)
