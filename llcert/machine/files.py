"""Files that are written whole or not at all, and folders that one process writes to at a time."""

from __future__ import annotations

import json
import os
import sys
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


def part_of(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    return path.with_name(f".{path.name}.part")


def lock(file: IO[bytes], path: Path) -> None:
    """Keeps a second process out of the folder; the system lets go of the lock however this one ends."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidInput(f"--out {path}: another llcert is at work in this folder") from error
