"""Members of tar and zip archives, read into memory and never written to disk."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from llcert.data.reading import open_decompressed, read_capped, readable, reading
from llcert.errors import InvalidInput

_CHUNK = 1 << 20


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes, as an archive is skipped through by decompressing it."""

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        super().__init__()
        self._stream = stream
        self._left = limit
        self._path = path

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(size if size >= 0 else self._left + 1)
        self._left -= len(part)
        if self._left < 0:
            raise InvalidInput(f"{self._path}: decompresses to more than this format can hold")
        return part


def member_name(name: str, path: Path) -> str:
    """The member's path with `.` removed; InvalidInput where it points outside the archive."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
        raise InvalidInput(f"{path}: member {name!r} points outside the archive")
    return str(parts)


def read_tar(path: Path, wanted: Callable[[str], bool], *, member_limit: int, total_limit: int) -> dict[str, bytes]:
    """The wanted regular files of a `.tar.gz` or `.tar.xz`, by name.

    A plain `.tar` may end early unnoticed, so nothing offers one.

    member_limit, total_limit: most bytes of one wanted file, and of the whole archive, decompressed.
    Raises InvalidInput for damaged archives, names that point outside, wanted names that are links, and bombs.
    """
    found: dict[str, bytes] = {}
    with (
        reading(path, "tar archive"),
        open_decompressed(path) as stream,
        # "r|" never seeks, so a member with a hostile offset cannot send the reader back in a circle
        contextlib.closing(_Limited(stream, total_limit, path)) as limited,
        tarfile.open(fileobj=limited, mode="r|") as archive,
    ):
        for member in archive:
            name = member_name(member.name, path)
            if member.isdir() or not wanted(name):
                continue
            content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise InvalidInput(f"{path}: member {name!r} is not a plain file")
            found[name] = read_capped(content, member_limit, f"{path}/{name}")
            if len(found[name]) != member.size:
                raise InvalidInput(f"{path}: member {name!r} is cut short")
        # tarfile stops at its own end mark; the checksum of the compression lies behind that
        while limited.read(_CHUNK):
            pass
    return found


def read_zip(path: Path, wanted: Callable[[str], bool], *, member_limit: int, total_limit: int) -> dict[str, bytes]:
    """The wanted files of a `.zip`, by name; limits and refusals as in `read_tar`, the total that of wanted files."""
    found: dict[str, bytes] = {}
    left = total_limit
    with reading(path, "zip archive"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member_name(member.filename, path)
            if member.is_dir() or not wanted(name):
                continue
            with archive.open(readable(member, path)) as stream:
                found[name] = read_capped(stream, min(member_limit, left), f"{path}/{name}")
            left -= len(found[name])
    return found
