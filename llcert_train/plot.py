"""Pictures of training runs, after Figures 2 to 4 of the paper: PNG and SVG, the same bytes for the same runs.

matplotlib is imported where it draws, and nowhere else.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llcert.errors import InvalidInput
from llcert.machine.files import write_atomically
from llcert_train.plot_curves import figure2
from llcert_train.plot_layers import figure3, figure4
from llcert_train.plot_runs import Run
from llcert_train.plot_style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")


@dataclass(frozen=True)
class Drawn:
    """The files that were written, and a line for each thing that was left out."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def draw(runs: Sequence[Run], out: Path) -> Drawn:
    """The files of figures 2 to 4 in the folder `out`, which is made where it is missing.

    A figure that no run has data for is left out. Every file is written at once or not at all, and none where one
    cannot be drawn. Raises InvalidInput where nothing is left to draw, matplotlib is missing, or `out` is not writable.
    """
    contents: dict[str, bytes] = {}
    notes: list[str] = []
    with _drawing():
        for name, (make, lacking) in _FIGURES.items():
            figure = make(runs, notes)
            if figure is None:
                notes.append(f"{name} left out: no run has {lacking}")
                continue
            contents |= {f"{name}.{kind}": _rendered(figure, kind) for kind in FORMATS}
    if not contents:
        raise InvalidInput("nothing to draw: no run measured its losses, bounds or layers")
    return Drawn(tuple(_written(out, contents)), tuple(notes))


@contextmanager
def _drawing() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's own settings, in our style."""
    try:
        import matplotlib
    except ImportError as error:
        raise InvalidInput(f'drawing needs matplotlib: pip install "llcert[plot]" ({error})') from None
    settings: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with matplotlib.rc_context(settings | STYLE):
            yield


def _rendered(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def _written(out: Path, contents: Mapping[str, bytes]) -> Iterator[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(out / name, content)
            yield out / name
    except OSError as error:
        raise InvalidInput(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder for the pictures"
        ) from None


_FIGURES: Mapping[str, tuple[Callable[[Sequence[Run], list[str]], Figure | None], str]] = {
    "figure2": (figure2, "bounds, losses or accuracies"),
    "figure3": (figure3, "shares of varying neurons"),
    "figure4": (figure4, "power iterations"),
}
