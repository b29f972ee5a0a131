"""Every state of a folder in which a process that writes to it can be killed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

State = dict[str, bytes | None]
"""Content by relative path; None for a folder."""


def state_of(folder: Path) -> State | None:
    """What lies in a folder; None where it does not exist."""
    if not folder.exists():
        return None
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def put(state: State | None, folder: Path) -> Path:
    """Makes a folder that is in this state."""
    if state is None:
        return folder
    folder.mkdir(parents=True)
    for name, content in state.items():
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


@contextmanager
def moments(folder: Path, modules: Sequence[Any]) -> Iterator[list[State | None]]:
    """Collects the states of a folder between any two lines of some modules, each once, in order.

    Where a file grew by a line, it may have grown by a part of that.
    """
    files = {module.__file__ for module in modules}
    found = [state_of(folder)]

    def look(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in files:
            return None
        now = state_of(folder)
        if now != found[-1]:
            found.extend(_halves(found[-1] or {}, now or {}))
            found.append(now)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield found
    finally:
        sys.settrace(before)
        if state_of(folder) != found[-1]:
            found.append(state_of(folder))


def _halves(before: State, after: State) -> Iterator[State]:
    """States in which a file is written in part; one that another file became was never."""
    for name, content in after.items():
        old = before.get(name) or b""
        if content and content.startswith(old) and len(content) > len(old) + 1 and content not in before.values():
            yield {**before, name: content[: (len(old) + len(content)) // 2]}
