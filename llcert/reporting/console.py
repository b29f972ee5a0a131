"""The report as text: colours and blocks in a terminal, plain characters elsewhere, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from llcert.certification import FIRST, Radii, Verdict
from llcert.reporting.diagnosis import held_down_by, percent, warnings
from llcert.reporting.subject import Subject
from llcert.reporting.summary import LayerReport, Outcome, Summary

_BAR = 60
_CEILING = "No bound can certify more of these images than withstand the attack"
_NUMBERS = 47  # columns of the layer table that hold no names
_SHADES: dict[tuple[Verdict, str | None], tuple[str, str, str]] = {
    (Verdict.CERTIFIED, "global"): ("█", "#", "green"),
    (Verdict.CERTIFIED, "local"): ("▓", "+", "bright_green"),
    (Verdict.CERTIFIED, "crown-ball"): ("▞", "%", "cyan"),
    (Verdict.CERTIFIED, "crown-ball-intermediate"): ("▚", "&", "magenta"),
    (Verdict.CERTIFIED, "branch"): ("▙", "*", "blue"),
    (Verdict.UNDECIDED, None): ("▒", "?", "yellow"),
    (Verdict.ATTACKED, "attack"): ("░", "x", "red"),
    (Verdict.MISCLASSIFIED, "clean"): ("·", ".", "bright_black"),
}
_OUT_OF_RANGE = ("▝", "o", "bright_red")
_OTHER = ("▟", "=", "cyan")


def render(report: Summary) -> RenderableType:
    """The whole report, top to bottom."""
    parts: list[RenderableType] = [
        _asked(report),
        Text(),
        _Bar(report.outcomes, report.subject.settings.specification.misclassified_word),
        Text(),
        _accuracies(report),
        Text(),
        Text(_cost(report)),
    ]
    if any(layer.local_norm_mean is not None for layer in report.layers):
        parts += [Text(), _Layers(report)]
        busiest = max(report.layers, key=lambda layer: layer.iterations_mean or 0.0)
        if busiest.iterations_mean:
            parts += [Text(), _Histogram(busiest)]
    if report.radius_curve:
        parts += [Text(), _Curve(report.radius_curve)]
    if report.unbounded:
        parts.append(Text(f"Certified at every radius: {report.unbounded}, by logits that do not depend on the image."))
    slowest = max(report.stages, key=lambda stage: stage.seconds, default=None)
    if slowest is not None:
        parts.append(Text(f"\nSlowest stage: {slowest.name}, {slowest.seconds:.1f} s of {report.seconds:.1f} s."))
    if report.certified_accuracy is None:
        parts.append(Text(f"\n{_CEILING} ({percent(report.attacked_accuracy)})."))
    else:
        parts.append(Text.assemble(("\nWhat holds certified accuracy down: ", "bold"), printable(held_down_by(report))))
        words = report.assurance_words
        parts.append(Text.assemble((f"Assurance {report.subject.settings.assurance.value}: ", "bold"), words))
    parts += [Text.assemble(("warning: ", "bold yellow"), printable(warning)) for warning in warnings(report)]
    return Group(*parts)


def facts() -> Table:
    """An empty table of two columns: names, and facts that wrap."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    return grid


def plain(text: str) -> Text:
    """Text from files and users without markup and without control characters."""
    return Text(printable(text))


def printable(text: str) -> str:
    """The text, with a question mark for every character that does not print."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _asked(report: Summary) -> RenderableType:
    subject = report.subject
    grid = facts()
    done = f"{len(report.samples)} of {subject.asked} images" if not report.complete else f"{subject.asked} images"
    grid.add_row("model", plain(subject.model))
    grid.add_row("data", plain(f"{subject.data}, {subject.split}, images {subject.selection} ({done})"))
    grid.add_row("eps", plain(f"{_eps(subject)} in pixel units (pixels in {subject.settings.pixel_range.words})"))
    if subject.settings.specification != FIRST or subject.settings.clip_input:
        left = f"; images of that class left out: {subject.left_out}" if subject.left_out else ""
        grid.add_row("claim", plain(f"{subject.claim_words}{left}"))
    grid.add_row("input", plain(subject.normalisation))
    grid.add_row("ran", plain(f"{', '.join(('clean', *subject.settings.running))}; {subject.device}, {subject.dtype}"))
    for note in (n for n in subject.notes if n not in subject.warnings):
        grid.add_row("note", plain(note))
    return grid


def _eps(subject: Subject) -> str:
    eps, text = subject.settings.eps, subject.eps_text
    if isinstance(eps, Radii):
        ends = f"{min(eps.values):.6g} to {max(eps.values):.6g}, median {subject.middle_eps:.6g}"
        return f"{text}: {ends}, each image's own L2 radius"
    return f"{text if text == repr(eps) else f'{text} = {eps:.6g}'}, an L2 radius"


def _accuracies(report: Summary) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    columns = {
        "clean": report.clean_accuracy,
        f"PGD ({report.subject.settings.attack.value})": report.attacked_accuracy,
    }
    if report.attacked(in_range=False):
        columns["in pixel range"] = report.attacked_accuracy_in_range
    columns["certified"] = report.certified_accuracy
    table.add_column(f"{report.subject.settings.specification.name}:", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("", *(percent(a) for a in columns.values()))
    return table


def _cost(report: Summary) -> str:
    """One line of what each stage cost and decided, as in the paper."""
    total = len(report.samples) or 1
    parts = []
    for stage in report.stages:
        match stage.name:
            case "global":
                parts.append(f"{percent(stage.decided / total)} certified by the global bound")
            case "attack":
                parts.append(f"{percent(stage.decided / total)} broken by PGD")
            case "targeted":
                parts.append(f"{percent(stage.decided / total)} by PGD towards every open class")
            case "local":
                iterations = [r.iterations_mean for r in report.layers if r.iterations_mean]
                each = f" ({sum(iterations) / len(iterations):.0f} iterations a layer on average)" if iterations else ""
                parts.append(f"{percent(stage.seen / total)} seen by the local stage{each}")
            case "clean":
                continue
            case _:
                parts.append(f"{percent(stage.decided / total)} by the {stage.name} stage")
    return f"Cost: {', '.join(parts)}." if parts else "Cost: clean predictions alone."


@dataclass(frozen=True)
class _Layers:
    """One row a layer: global and mean local norm, iterations, and the share of varying outputs (paper, Figure 3)."""

    report: Summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = options.max_width - _NUMBERS
        longest = [max(len(word) for word in words) for words in zip(*self._words(), strict=True)]
        names = min(longest[0], max(8, left - longest[1], left // 2))
        operators = max(8, left - names)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for name in ("layer", "operator"):
            table.add_column(name, no_wrap=True)
        for name in ("global", "local", "iter."):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("varying", no_wrap=True)
        for layer, (name, operator) in zip(self.report.layers, self._words(), strict=True):
            table.add_row(
                Text(_short(name, names)),
                Text(_short(operator, operators)),
                _shown(layer.layer.global_norm, ".3g"),
                _shown(layer.local_norm_mean, ".3g"),
                _shown(layer.iterations_mean, ".0f"),
                _share(layer.varying, ascii_only=options.ascii_only),
            )
        total = (self.report.subject.global_lipschitz, self.report.local_lipschitz_mean)
        table.add_row("network", "", *(_shown(value, ".3g") for value in total), style="bold")
        yield table

    def _words(self) -> list[tuple[str, str]]:
        return [(printable(r.layer.name), r.layer.operator) for r in self.report.layers]


def _short(text: str, width: int) -> str:
    """The text with its middle left out where it is longer than `width`."""
    kept = width - 2
    return text if len(text) <= width else f"{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}"


def _share(share: float | None, *, ascii_only: bool, width: int = 8) -> str:
    """A share as percentage and bar."""
    if share is None:
        return ""
    return f"{100 * share:>3.0f} % {('#' if ascii_only else '█') * round(share * width)}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


@dataclass(frozen=True)
class _Bar:
    """A bar of all images by outcome, and its legend. misclassified_word: the specification's."""

    outcomes: tuple[Outcome, ...]
    misclassified_word: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = _parts(self.outcomes)
        total = sum(o.count for o in parts)
        if not total:
            return
        width = min(_BAR, options.max_width)
        for outcome, cells in zip(parts, _cells([o.count for o in parts], width), strict=True):
            glyph, style = _shade(outcome, ascii_only=options.ascii_only)
            yield Segment(glyph * cells, style)
        yield Segment.line()
        names = [self._name(o) for o in parts]
        longest = max(22, *map(len, names))
        for outcome, name in zip(parts, names, strict=True):
            glyph, style = _shade(outcome, ascii_only=options.ascii_only)
            yield Segment(glyph * 2, style)
            yield Segment(f"  {name:<{longest}}{outcome.count:>8}{percent(outcome.count / total):>9}")
            yield Segment.line()

    def _name(self, outcome: Outcome) -> str:
        by = f" ({outcome.stage})" if outcome.verdict is Verdict.CERTIFIED else ""
        name = self.misclassified_word if outcome.verdict is Verdict.MISCLASSIFIED else outcome.verdict.value
        return name + by + (", out of range" if outcome.in_range is False else "")


def _parts(outcomes: tuple[Outcome, ...]) -> list[Outcome]:
    """The outcomes, with the images of both attack stages together."""
    found: dict[tuple[Verdict, str | None, bool | None], Outcome] = {}
    for o in outcomes:
        stage = "attack" if o.verdict is Verdict.ATTACKED else o.stage
        key = (o.verdict, stage, o.in_range)
        found[key] = replace(o, stage=stage, count=o.count + (found[key].count if key in found else 0))
    return list(found.values())


def _cells(counts: list[int], width: int) -> list[int]:
    """The cells of each part of a bar: proportional, adding up to `width`, at least one each where there is room."""
    total = sum(counts)
    cells = [max(1, int(width * count / total)) for count in counts]
    cells[counts.index(max(counts))] += width - sum(cells)
    return [max(0, c) for c in cells]


def _shade(outcome: Outcome, *, ascii_only: bool) -> tuple[str, Style]:
    shade = _SHADES.get((outcome.verdict, outcome.stage), _OTHER)
    fancy, plain, colour = _OUT_OF_RANGE if outcome.in_range is False else shade
    return plain if ascii_only else fancy, Style(color=colour)


@dataclass(frozen=True)
class _Histogram:
    """How many images took how many iterations in one layer (the paper's Figure 4)."""

    layer: LayerReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"Iterations in {printable(self.layer.layer.name)}, images:", style="bold")
        yield from self._rows("#" if options.ascii_only else "█", min(40, options.max_width - 30))

    def _rows(self, glyph: str, width: int) -> Iterator[Text]:
        most = max(count for _, _, count in self.layer.iterations)
        for low, high, count in self.layer.iterations:
            name = str(low) if low == high else f"{low}-{high}"
            yield Text(f"  {name:>11}  {count:>6}  {glyph * round(width * count / most)}")


@dataclass(frozen=True)
class _Curve:
    """Certified accuracy against the radius."""

    points: tuple[tuple[float, float], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("Certified accuracy by radius:", style="bold")
        glyph = "#" if options.ascii_only else "█"
        for radius, share in self.points:
            yield Text(
                f"  {radius:>11.4g}  {percent(share):>7}  {glyph * round(share * min(40, options.max_width - 30))}"
            )
