"""The style that all pictures of training runs share: colours, sizes, legends and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


# Okabe and Ito's palette, told apart with any colour vision, less its yellow, which vanishes on white
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
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
GREY = "#555555"


_LEGEND_LINE = 0.22  # inches
LETTER = 0.07  # inches, below an axis
_LONGEST_LABEL, LONGEST_NAME, LONGEST_TITLE = 48, 28, 26


def empty_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def name_runs(figure: Figure, names: Sequence[tuple[str, str]]) -> None:
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
        shown.set_text(printable_name(name, _LONGEST_LABEL))
    return legend


def colours_of(runs: int) -> list[str]:
    """One colour a run, told apart with any colour vision: a palette, or for many runs a scale of lightness."""
    if runs <= len(_PALETTE):
        return list(_PALETTE[:runs])
    import matplotlib
    from matplotlib.colors import to_hex

    scale = matplotlib.colormaps["viridis"]
    return [to_hex(scale(0.85 * i / (runs - 1))) for i in range(runs)]


def printable_name(name: str, longest: int) -> str:
    """The name with its middle left out where it is too long, as text that matplotlib shows as it is."""
    if len(name) > longest:
        half = (longest - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return "".join(c if c.isprintable() else "?" for c in name).replace("$", r"\$")
