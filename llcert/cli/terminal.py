"""Consoles of the command line, and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def stdout() -> Console:
    """The console of results."""
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console of progress, notes and errors."""
    return Console(stderr=True, highlight=False)


class WorkProgress:
    """A progress bar that may have no terminal, and then shows nothing."""

    def __init__(self, progress: Progress | None, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total) if progress else None

    def advance(self, count: int) -> None:
        """Adds so many to what is done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def left(self, count: float) -> None:
        """Sets how many are left, whatever the total was."""
        if self._progress is not None and self._task is not None:
            total = self._progress.tasks[self._task].total or 0.0
            self._progress.update(self._task, completed=max(0.0, total - count))


@contextmanager
def work_progress(console: Console, label: str, total: int) -> Iterator[WorkProgress]:
    """A bar with the time left, gone when the work is done."""
    if not console.is_terminal:
        yield WorkProgress(None, label, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield WorkProgress(progress, label, total)


class DownloadProgress:
    """Shows a download as it goes; a line at its start where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, chunks: Iterable[bytes], *, total: int | None, label: str) -> Iterable[bytes]:
        """The chunks unchanged. total: bytes to come, None if unknown."""
        if not self._console.is_terminal:
            self._console.print(f"downloading {label}", soft_wrap=True, markup=False)
            yield from chunks
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True) as progress:
            task = progress.add_task(label, total=total)
            for chunk in chunks:
                yield chunk
                progress.advance(task, len(chunk))
