"""Figure 2 of the paper: bounds, losses and accuracies over epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llcert_train.metrics import Epoch, HeldOut, Train
from llcert_train.plot_runs import Run
from llcert_train.plot_style import (
    GREY,
    colours_of,
    empty_figure,
    name_runs,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TINY = 1e-100  # below, a logarithmic axis takes a value for zero
_WIDE = 30  # losses that differ by such a factor are shown on a logarithmic axis


@dataclass(frozen=True)
class _Line:
    """A line of a panel: what it is called, how it looks, and where an epoch keeps its values."""

    name: str
    dash: Literal["-", "--", ":"]
    marker: str
    record: Callable[[Epoch], Train | HeldOut | None]
    field: str

    def points(self, run: Run, *, positive: bool) -> tuple[list[int], list[float]]:
        """Epochs and values; NaN, a gap, where an epoch has the record but not the value."""
        epochs, values = [], []
        for epoch in run.epochs:
            record = self.record(epoch)
            if record is not None:
                value = getattr(record, self.field)
                epochs.append(epoch.epoch)
                values.append(math.nan if value is None or (positive and value < _TINY) else value)
        return epochs, values


@dataclass(frozen=True)
class _Panel:
    """A panel of Figure 2. log: None where the values decide."""

    title: str
    axis: str
    lines: tuple[_Line, ...]
    log: bool | None = None
    share: bool = False

    @property
    def positive(self) -> bool:
        return self.log is True


def _train(epoch: Epoch) -> Train | None:
    return epoch.train


def _held_out(epoch: Epoch) -> HeldOut | None:
    return epoch.held_out


def _losses(field: str) -> tuple[_Line, ...]:
    return (_Line("training", "-", "o", _train, field), _Line("held out", "--", "s", _held_out, field))


_PANELS = (
    _Panel(
        "a) Lipschitz bound",
        "bound (log)",
        (
            _Line("global", "--", "s", _held_out, "global_lipschitz"),
            _Line("local, mean", "-", "o", _held_out, "local_lipschitz"),
        ),
        log=True,
    ),
    _Panel("b) clean loss", "cross-entropy", _losses("clean_loss")),
    _Panel("c) robust loss (worst logits)", "cross-entropy", _losses("robust_loss")),
    _Panel(
        "d) held-out accuracy",
        "share of images",
        (
            _Line("clean", ":", "o", _held_out, "clean_accuracy"),
            _Line("PGD", "--", "s", _held_out, "attacked_accuracy"),
            _Line("certified", "-", "^", _held_out, "certified_accuracy"),
        ),
        log=False,
        share=True,
    ),
)


def figure2(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """Bounds, losses and accuracies over epochs, runs overlaid."""
    figure = empty_figure(10, 7)
    colours = colours_of(len(runs))
    shown: set[int] = set()
    last = max((epoch.epoch for run in runs for epoch in run.epochs), default=0)
    for axes, panel in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        shown |= _draw_panel(axes, panel, runs, colours)
        axes.set_xlim(-0.02 * last - 0.2, 1.02 * last + 0.2)
    if not shown:
        return None
    name_runs(figure, [(runs[i].label, colours[i]) for i in sorted(shown)])
    return figure


def _draw_panel(axes: Axes, panel: _Panel, runs: Sequence[Run], colours: Sequence[str]) -> set[int]:
    """Which runs have something to show in the panel."""
    shown: set[int] = set()
    drawn: list[_Line] = []
    found: list[float] = []
    for line in panel.lines:
        for i, run in enumerate(runs):
            epochs, values = line.points(run, positive=panel.positive)
            finite = [v for v in values if not math.isnan(v)]
            if finite:
                _draw_line(axes, line, epochs, values, colours[i])
                shown.add(i)
                found += finite
                drawn.append(line)
    axes.set_title(panel.title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.axis)
    _scale(axes, panel, found)
    _legend_of_lines(axes, [line for line in panel.lines if line in drawn])
    return shown


def _draw_line(axes: Axes, line: _Line, epochs: list[int], values: list[float], colour: str) -> None:
    """Markers stand at a few points that tell kinds of lines apart, and at points without neighbours."""
    step = max(1, len(values) // 8)
    gap = [True, *(math.isnan(v) for v in values), True]
    marked = [i for i in range(len(values)) if i % step == 0 or (gap[i] and gap[i + 2])]
    axes.plot(epochs, values, line.dash, marker=line.marker, markevery=marked, color=colour, alpha=0.9)


def _scale(axes: Axes, panel: _Panel, values: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not computed", transform=axes.transAxes, ha="center", va="center", color=GREY)
    elif panel.share:
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif panel.log or (panel.log is None and _TINY < min(values) < max(values) / _WIDE):
        axes.set_ylabel(panel.axis if panel.log else f"{panel.axis} (log)")
        _log_scale(axes)


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis that has readable numbers for narrow ranges too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(NullFormatter())
    if high / low > 1e3:
        return
    axes.yaxis.set_major_locator(MaxNLocator(6) if high / low < 8 else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend_of_lines(axes: Axes, lines: Sequence[_Line]) -> None:
    """Names the kinds of lines beside the title, where no data lie."""
    from matplotlib.lines import Line2D

    if not lines:
        return
    handles = [Line2D([], [], color=GREY, linestyle=line.dash, marker=line.marker, label=line.name) for line in lines]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        fontsize=8,
        handlelength=2.8,
        columnspacing=1.2,
        borderaxespad=0.4,
    )
