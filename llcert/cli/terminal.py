"""Where the command line prints, and how it shows progress."""

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
    """For results."""
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """For progress and everything else that is not the result."""
    return Console(stderr=True, highlight=False)


class WorkProgress:
    """How much is done. Does nothing where there is no terminal."""

    def __init__(self, progress: Progress | None, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total) if progress else None

    def advance(self, count: int) -> None:
        """So many more are done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def left(self, count: float) -> None:
        """So many are to be done yet, whatever was expected."""
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
