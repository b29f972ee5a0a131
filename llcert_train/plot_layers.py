"""Figures 3 and 4 of the paper: varying neurons and power iterations, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llcert_train.metrics import Layer
from llcert_train.plot_runs import Run
from llcert_train.plot_style import (
    GREY,
    LETTER,
    LONGEST_NAME,
    LONGEST_TITLE,
    colours_of,
    empty_figure,
    name_runs,
    printable_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_LAYERS = {"figure3": 150, "figure4": 64}


@dataclass(frozen=True)
class _Snapshot:
    """The layers of one run at the last epoch that has what a figure shows."""

    run: int
    label: str
    layers: tuple[Layer, ...]


def figure3(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """The share of varying neurons, grouped by layer; the last layer, the logits, has no activation behind it."""
    shots = _snapshots(runs, lambda layers: layers[:-1], lambda layer: layer.varying is not None)
    if not shots:
        return None
    names = _shown_layers("figure3", shots, notes)
    figure = empty_figure(min(30.0, max(6.4, 1.2 + len(names) * max(0.5, 0.08 * len(shots)))), 3.8)
    axes = figure.subplots()
    colours = colours_of(len(runs))
    width = 0.8 / len(shots)
    for i, shot in enumerate(shots):
        _draw_bars(axes, shot.layers[: len(names)], (i + 0.5) * width - 0.4, width, colours[shot.run])
    _name_layers(axes, names, room=(figure.get_figwidth() - 1) / len(names))
    name_runs(figure, [(shot.label, colours[shot.run]) for shot in shots])
    return figure


def _draw_bars(axes: Axes, layers: Sequence[Layer], offset: float, width: float, colour: str) -> None:
    """A bar a layer; a share of zero shows as a line on the axis, one that is not known not at all."""
    known = [(place + offset, layer.varying) for place, layer in enumerate(layers) if layer.varying is not None]
    for place, height in known:
        axes.bar(place, height, 0.9 * width, color=colour, edgecolor=colour, linewidth=1.5, clip_on=False, zorder=3)


def _name_layers(axes: Axes, names: Sequence[str], *, room: float) -> None:
    """Layers under their bars, slanted where they would touch. room: inches a layer."""
    from matplotlib.ticker import PercentFormatter

    texts = [printable_name(name, LONGEST_NAME) for name in names]
    slanted = max(len(text) for text in texts) * LETTER > room
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(names)), texts, **turned)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("varying neurons")


def figure4(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """A panel a layer with a histogram of its power iterations, runs overlaid."""
    shots = _snapshots(runs, lambda layers: layers, lambda layer: any(images for _, _, images in layer.iterations))
    if not shots:
        return None
    names = _shown_layers("figure4", shots, notes)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = empty_figure(max(5.0, 0.6 + 2.6 * columns), 0.9 + 1.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    colours = colours_of(len(runs))
    for position, name in enumerate(names):
        axes = grid[position]
        for shot in shots:
            if position < len(shot.layers):
                _draw_histogram(
                    axes, shot.layers[position].iterations, colours[shot.run], alpha=min(0.3, 1 / len(shots))
                )
        _finish_histogram(axes, name)
    for axes in list(grid)[len(names) :]:
        axes.remove()
    figure.supxlabel("power iterations", fontsize=9)
    figure.supylabel("share of images per iteration count", fontsize=9)
    name_runs(figure, [(shot.label, colours[shot.run]) for shot in shots])
    return figure


def _draw_histogram(axes: Axes, intervals: Sequence[tuple[int, int, int]], colour: str, alpha: float) -> None:
    """Steps whose area is the share of images: intervals of runs differ in width, and images in number."""
    total = sum(images for _, _, images in intervals)
    edges: list[float] = []
    heights: list[float] = []
    for low, high, images in intervals if total else ():
        if edges and edges[-1] < low - 0.5:
            heights.append(0)
            edges.append(low - 0.5)
        edges += [low - 0.5, high + 0.5] if not edges else [high + 0.5]
        heights.append(images / total / (high - low + 1))
    if heights:
        axes.stairs(heights, edges, fill=True, color=colour, alpha=alpha)
        axes.stairs(heights, edges, color=colour, linewidth=1.2)


def _finish_histogram(axes: Axes, name: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(printable_name(name, LONGEST_TITLE), fontsize=9)
    if not axes.patches:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not computed", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def _snapshots(
    runs: Sequence[Run], part: Callable[[tuple[Layer, ...]], tuple[Layer, ...]], has: Callable[[Layer], bool]
) -> list[_Snapshot]:
    """For each run that has any: that part of the layers of its last epoch where a layer of them has the measure."""
    found = []
    for i, run in enumerate(runs):
        for epoch in reversed(run.epochs):
            layers = part(epoch.held_out.layers) if epoch.held_out else ()
            if any(has(layer) for layer in layers):
                found.append(_Snapshot(i, f"{run.label}, epoch {epoch.epoch}", layers))
                break
    return found


def _shown_layers(figure: str, shots: Sequence[_Snapshot], notes: list[str]) -> list[str]:
    """A name for each position: the first run's that has it; notes say where there are too many positions to show."""
    count = max(len(shot.layers) for shot in shots)
    shown = min(count, _MOST_LAYERS[figure])
    if shown < count:
        notes.append(f"{figure} shows the first {shown} of {count} layers")
    first = [next(shot.layers[i].name for shot in shots if i < len(shot.layers)) for i in range(shown)]
    return [name or f"layer {i + 1}" for i, name in enumerate(first)]
