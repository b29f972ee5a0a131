"""Reads files that may be hostile: decompression stops at a limit, and every failure is one InvalidInput."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from llcert.errors import InvalidInput, LlcertError

COMPRESSED = ("", ".gz", ".xz")
_MEBIBYTE = 1 << 20
_STEP = 8 * _MEBIBYTE


@contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Turns whatever a decoder throws at hostile bytes into one InvalidInput that names the file.

    Decoders (zip, tar, pickle, JPEG, parquet) do not document what they raise on malformed input, so wrap only the
    call into the decoder in this.
    """
    try:
        yield
    except LlcertError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise InvalidInput(f"{path}: not a readable {what} ({reason[:200]})") from error


def readable(member: zipfile.ZipInfo, path: Path | str) -> zipfile.ZipInfo:
    """The same member of an archive, stored or deflated; other decoders unpack any amount before it can be counted.

    Raises InvalidInput for those.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput(f"{path}: {member.filename[:80]} is neither stored nor deflated; pack it again")
    return member


def read_capped(stream: IO[bytes], limit: int, path: Path | str) -> bytes:
    """All bytes of the stream; InvalidInput as soon as there are more than `limit`."""
    parts: list[bytes] = []
    size = 0
    while part := stream.read(min(_STEP, limit + 1 - size)):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise InvalidInput(f"{path}: holds more than {limit:,} bytes once decompressed, too much for its format")
    return b"".join(parts)


def open_decompressed(path: Path) -> IO[bytes]:
    """The file's content as a stream, decompressed by the ending of its name (`.gz`, `.xz`)."""
    match path.suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case ".xz":
            return lzma.open(path, "rb")
    return path.open("rb")


def read_file(path: Path, limit: int, what: str) -> bytes:
    """The file's decompressed content, at most `limit` bytes; InvalidInput where it cannot be had."""
    if not path.is_file():
        raise InvalidInput(f"{path}: not a file")
    with reading(path, what), open_decompressed(path) as stream:
        return read_capped(stream, limit, path)


def decode_text(content: bytes, path: Path | str) -> str:
    """The bytes as UTF-8 text; InvalidInput where they are none."""
    with reading(path, "text file"):
        return content.decode("utf-8")
