"""Files that are written whole or not at all, and folders that one process writes to at a time."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

from llcert.errors import InvalidInput


def dump(value: Any, indent: int | None = None) -> str:
    """One line of JSON, or an indented text, with a line end; NaN and infinity raise ValueError."""
    return json.dumps(value, allow_nan=False, indent=indent) + "\n"


def write_atomically(path: Path, text: str | bytes) -> None:
    """Writes a file at once or not at all; links and devices are written to as they are."""
    content = text.encode() if isinstance(text, str) else text
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    part = part_of(path)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(path: Path) -> Path:
    """The temporary name under which `write_atomically` writes a file."""
    return path.with_name(f".{path.name}.part")


def is_vacant(
    path: Path, option: str, *, resume: bool, overwrite: bool, marker: str, ignored: Collection[str] = ()
) -> bool:
    """Whether a folder is free for something new: it is not there, or holds nothing but ignored files.

    option: its name in messages. marker: the file that shows that an earlier run of llcert wrote the folder. Raises
    InvalidInput where it is no folder, where it holds anything and neither resume nor overwrite is given, or both are.
    """
    if resume and overwrite:
        raise InvalidInput("--resume and --overwrite exclude each other")
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"{option} {path}: not a folder")
    if not path.exists() or {inside.name for inside in path.iterdir()} <= set(ignored):
        return True
    if not (resume or overwrite):
        what = "holds an earlier run" if (path / marker).exists() else "is not empty"
        raise InvalidInput(f"{option} {path}: {what}; give --resume to continue it or --overwrite to replace it")
    return False


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first key of `now` whose value differs from that in `before`, which was read from JSON; None for none."""
    return next((k for k, value in now.items() if before.get(k) != json.loads(json.dumps(value))), None)


def lock(file: IO[bytes], path: Path) -> None:
    """Locks a folder by a file in it, until this process ends. Raises InvalidInput where another process holds it."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidInput(f"--out {path}: another llcert is at work in this folder") from error
