"""Members of tar and zip archives, read into memory and never written to disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from llcert.data.reading import open_decompressed, read_capped, reading
from llcert.errors import InvalidInput

_MAX_MEMBERS = 1_000_000


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
    """The wanted regular files of a `.tar`, `.tar.gz` or `.tar.xz`, by name.

    member_limit, total_limit: most bytes of one wanted file, and of the whole archive, decompressed.
    Raises InvalidInput for damaged archives, names that point outside, wanted names that are links, and bombs.
    """
    found: dict[str, bytes] = {}
    with (
        reading(path, "tar archive"),
        open_decompressed(path) as stream,
        # "r|" never seeks, so a member with a hostile offset cannot send the reader back in a circle
        tarfile.open(fileobj=_Limited(stream, total_limit, path), mode="r|") as archive,
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
    return found


def zip_names(path: Path) -> list[str]:
    """The names of the files in a zip archive; InvalidInput where it is damaged or a name points outside."""
    with reading(path, "zip archive"), zipfile.ZipFile(path) as archive:
        names = [member.filename for member in archive.infolist() if not member.is_dir()]
    if len(names) > _MAX_MEMBERS:
        raise InvalidInput(f"{path}: {len(names):,} members are more than {_MAX_MEMBERS:,}")
    for name in names:
        member_name(name, path)
    return names


def read_zip(path: Path, names: list[str], member_limit: int) -> list[bytes]:
    """The content of these members, in this order; InvalidInput where one is missing, damaged or too large."""
    contents = []
    with reading(path, "zip archive"), zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(name) as member:
                contents.append(read_capped(member, member_limit, f"{path}/{name}"))
    return contents
