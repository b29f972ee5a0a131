"""Pictures of training runs, after Figures 2 to 4 of the paper: PNG and SVG, the same bytes for the same runs.

matplotlib is imported where it draws, and nowhere else.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llcert.errors import InvalidInput
from llcert_train import metrics
from llcert_train.metrics import Epoch, HeldOut, Layer, Train

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

FORMATS = ("png", "svg")
# Okabe and Ito's palette, told apart with any colour vision, less its yellow, which vanishes on white
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "svg.hashsalt": "llcert",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_GREY = "#555555"
_TINY = 1e-100  # below, a logarithmic axis takes a value for zero
_WIDE = 30  # losses that differ by such a factor are shown on a logarithmic axis
_MOST_LAYERS = {"figure3": 150, "figure4": 64}
_LEGEND_LINE = 0.22  # inches
_LETTER = 0.07  # inches, below an axis
_LONGEST_LABEL, _LONGEST_NAME, _LONGEST_TITLE = 48, 28, 26


@dataclass(frozen=True)
class Run:
    """A training run under the name that legends show."""

    label: str
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Drawn:
    """The files that were written, and a line for each thing that was left out."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def read_runs(folders: Sequence[Path], labels: Sequence[str] | None = None) -> tuple[Run, ...]:
    """The runs that lie in the folders, in their order, each under its label or else under its folder's name.

    Equal names get as many of the folders above as tell them apart. Raises InvalidInput for a folder without a readable
    run, a folder given twice, and labels that are empty, equal or not one a run.
    """
    if not folders:
        raise InvalidInput("no training run given; name the folder of one")
    for folder in folders:
        if not folder.is_dir():
            raise InvalidInput(f"{folder}: not a folder; give the folder of a training run")
    full = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if full[i] in full[:i]:
            raise InvalidInput(f"{folder}: given twice")
    names = _folder_names(full) if labels is None else _checked_labels(labels, len(full))
    return tuple(Run(n, metrics.read(f / metrics.NAME)) for n, f in zip(names, folders, strict=True))


def _folder_names(folders: Sequence[Path]) -> list[str]:
    """For each folder as much of the end of its path as no other folder's ends in."""
    names = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        lengths = range(1, len(folder.parts))
        tails = (folder.parts[-n:] for n in lengths if all(o[-n:] != folder.parts[-n:] for o in others))
        names.append("/".join(next(tails, ())) or str(folder))
    return names


def _checked_labels(labels: Sequence[str], runs: int) -> Sequence[str]:
    if len(labels) != runs:
        raise InvalidInput(f"labels: {len(labels)} for {runs} runs; give one a run, in their order")
    if not all(labels) or len(set(labels)) < runs:
        raise InvalidInput("labels: two are equal, or one is empty; a legend could not tell the runs apart")
    return labels


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
        with matplotlib.rc_context(settings | _STYLE):
            yield


def _rendered(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def _written(out: Path, contents: Mapping[str, bytes]) -> Iterator[Path]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write_atomically(out / name, content)
            yield out / name
    except OSError as error:
        raise InvalidInput(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder for the pictures"
        ) from None


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def _figure2(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """Bounds, losses and accuracies over epochs, runs overlaid."""
    figure = _empty(10, 7)
    colours = _colours(len(runs))
    shown: set[int] = set()
    last = max((epoch.epoch for run in runs for epoch in run.epochs), default=0)
    for axes, panel in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        shown |= _draw_panel(axes, panel, runs, colours)
        axes.set_xlim(-0.02 * last - 0.2, 1.02 * last + 0.2)
    if not shown:
        return None
    _legend(figure, [(runs[i].label, colours[i]) for i in sorted(shown)])
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
        axes.text(0.5, 0.5, "not computed", transform=axes.transAxes, ha="center", va="center", color=_GREY)
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
    handles = [Line2D([], [], color=_GREY, linestyle=line.dash, marker=line.marker, label=line.name) for line in lines]
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


@dataclass(frozen=True)
class _Snapshot:
    """The layers of one run at the last epoch that has what a figure shows."""

    run: int
    label: str
    layers: tuple[Layer, ...]


def _figure3(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """The share of varying neurons, grouped by layer; the last layer, the logits, has no activation behind it."""
    shots = _snapshots(runs, lambda layers: layers[:-1], lambda layer: layer.varying is not None)
    if not shots:
        return None
    names = _shown_layers("figure3", shots, notes)
    figure = _empty(min(30.0, max(6.4, 1.2 + len(names) * max(0.5, 0.08 * len(shots)))), 3.8)
    axes = figure.subplots()
    colours = _colours(len(runs))
    width = 0.8 / len(shots)
    for i, shot in enumerate(shots):
        _draw_bars(axes, shot.layers[: len(names)], (i + 0.5) * width - 0.4, width, colours[shot.run])
    _name_layers(axes, names, room=(figure.get_figwidth() - 1) / len(names))
    _legend(figure, [(shot.label, colours[shot.run]) for shot in shots])
    return figure


def _draw_bars(axes: Axes, layers: Sequence[Layer], offset: float, width: float, colour: str) -> None:
    """A bar a layer; a share of zero shows as a line on the axis, one that is not known not at all."""
    known = [(place + offset, layer.varying) for place, layer in enumerate(layers) if layer.varying is not None]
    for place, height in known:
        axes.bar(place, height, 0.9 * width, color=colour, edgecolor=colour, linewidth=1.5, clip_on=False, zorder=3)


def _name_layers(axes: Axes, names: Sequence[str], *, room: float) -> None:
    """Layers under their bars, slanted where they would touch. room: inches a layer."""
    from matplotlib.ticker import PercentFormatter

    texts = [_safe(name, _LONGEST_NAME) for name in names]
    slanted = max(len(text) for text in texts) * _LETTER > room
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(names)), texts, **turned)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("varying neurons")


def _figure4(runs: Sequence[Run], notes: list[str]) -> Figure | None:
    """A panel a layer with a histogram of its power iterations, runs overlaid."""
    shots = _snapshots(runs, lambda layers: layers, lambda layer: any(images for _, _, images in layer.iterations))
    if not shots:
        return None
    names = _shown_layers("figure4", shots, notes)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = _empty(max(5.0, 0.6 + 2.6 * columns), 0.9 + 1.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    colours = _colours(len(runs))
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
    _legend(figure, [(shot.label, colours[shot.run]) for shot in shots])
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

    axes.set_title(_safe(name, _LONGEST_TITLE), fontsize=9)
    if not axes.patches:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not computed", transform=axes.transAxes, ha="center", va="center", color=_GREY)
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


def _empty(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Figure, names: Sequence[tuple[str, str]]) -> None:
    """Names the runs above the panels, and makes the figure taller for it. names: each with its colour."""
    for columns in range(len(names), 0, -1):
        legend = _legend_in(figure, names, columns)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            break
        legend.remove()
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + rows * _LEGEND_LINE)


def _legend_in(figure: Figure, names: Sequence[tuple[str, str]], columns: int) -> Legend:
    from matplotlib.patches import Patch

    # as a label, a name that begins with an underscore would be hidden
    handles = [Patch(color=colour, label=str(i)) for i, (_, colour) in enumerate(names)]
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    for shown, (name, _) in zip(legend.get_texts(), names, strict=True):
        shown.set_text(_safe(name, _LONGEST_LABEL))
    return legend


def _colours(runs: int) -> list[str]:
    """One colour a run, told apart with any colour vision: a palette, or for many runs a scale of lightness."""
    if runs <= len(_PALETTE):
        return list(_PALETTE[:runs])
    import matplotlib
    from matplotlib.colors import to_hex

    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(0.85 * i / (runs - 1))) for i in range(runs)]


def _safe(name: str, longest: int) -> str:
    """The name with its middle left out where it is too long, as text that matplotlib shows as it is."""
    if len(name) > longest:
        half = (longest - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return "".join(c if c.isprintable() else "?" for c in name).replace("$", r"\$")


_FIGURES: Mapping[str, tuple[Callable[[Sequence[Run], list[str]], Figure | None], str]] = {
    "figure2": (_figure2, "bounds, losses or accuracies"),
    "figure3": (_figure3, "shares of varying neurons"),
    "figure4": (_figure4, "power iterations"),
}
