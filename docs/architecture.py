"""Draws docs/architecture.svg: the packages and single files of llcert, and which of them import which.

`python docs/architecture.py` reads every import of `llcert/` and `llcert_train/`, those inside functions and for types
included, and writes the picture. A part stands above all that it imports, as high as those that import it allow. An
arrow that follows from others is left out: where A imports B and B imports C, there is none from A to C.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
BOX, THIN, GAP, BETWEEN, LINE, MARGIN = 168, 10, 16, 46, 13, 20
"""In pixels: widths of a box and of a passing line, space beside and between them, height of a text line, border."""

Graph = dict[str, set[str]]


def imports() -> tuple[Graph, dict[str, str]]:
    """What every part imports, and the first sentence about it. A part is a package, or a file beside the packages."""
    files = [*(ROOT / "llcert").rglob("*.py"), *(ROOT / "llcert_train").rglob("*.py")]
    front = {ROOT / "llcert" / name for name in ("__init__.py", "__main__.py")}
    graph, about = Graph(), dict[str, str]()
    for path in sorted(set(files) - front):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        part = _part(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if path.parent == ROOT / "llcert" or path.relative_to(ROOT).with_suffix("").parts[-2:] == (part, "__init__"):
            about[part] = _first_sentence(ast.get_docstring(tree) or "")
        graph.setdefault(part, set()).update(_part(name) for name in _imported(tree))
    return {part: (found & set(graph)) - {part} for part, found in graph.items()}, about


def _first_sentence(text: str) -> str:
    paragraph = re.sub(r" \(docs/[^)]*\)", "", " ".join(text.partition("\n\n")[0].split()))
    found = re.match(r".+?[.?](?=\s|$)", paragraph)
    return found.group() if found else paragraph


def _part(module: str) -> str:
    """`bounds` for `llcert.bounds.margin`."""
    package, _, rest = module.partition(".")
    return package if package != "llcert" else rest.partition(".")[0]


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reduced(graph: Graph) -> Graph:
    """The graph without the edges that follow from others."""
    below: Graph = {}
    for part in TopologicalSorter(graph).static_order():
        below[part] = graph[part].union(*(below[other] for other in graph[part]))
    return {part: {b for b in found if not any(b in below[a] for a in found)} for part, found in graph.items()}


@dataclass(frozen=True)
class Place:
    """A box of a part, or a point of a row that an arrow passes. name: of the part; of a point, its arrow and row."""

    name: str
    width: int


Edge = tuple[str, str]


def rows_of(graph: Graph) -> tuple[list[list[Place]], list[Edge]]:
    """The rows of the picture, lowest first, and the edges between neighbouring rows."""
    level: dict[str, int] = {}
    for part in TopologicalSorter(graph).static_order():
        level[part] = max((level[other] + 1 for other in graph[part]), default=0)
    above: Graph = {part: {a for a in graph if part in graph[a]} for part in graph}
    for part in sorted(graph, key=lambda p: (-level[p], p)):
        level[part] = min((level[a] for a in above[part]), default=level[part] + 1) - 1
    rows: list[list[Place]] = [[] for _ in range(max(level.values()) + 1)]
    edges: list[Edge] = []
    for part in sorted(graph):
        rows[level[part]].append(Place(part, BOX))
    for part in sorted(graph):
        for other in sorted(graph[part]):
            last = part
            for number in range(level[part] - 1, level[other], -1):
                point = f"{part} to {other} at {number}"
                rows[number].append(Place(point, THIN))
                edges.append((last, point))
                last = point
            edges.append((last, other))
    return _untangled(rows, edges), edges


def _untangled(rows: list[list[Place]], edges: Sequence[Edge]) -> list[list[Place]]:
    """The rows in an order with few crossings: every place near the middle of its neighbours, up and down in turn."""
    best, fewest = rows, _crossings(rows, edges)
    for sweep in range(24):
        upwards = sweep % 2 == 0
        order = {place.name: i for row in rows for i, place in enumerate(row)}
        for row in rows if upwards else reversed(rows):
            where = {p.name: _mean([order[n] for n in _neighbours(p.name, edges, down=upwards)]) for p in row}
            known = {name: order[name] if value is None else value for name, value in where.items()}
            row.sort(key=lambda p: (known[p.name], p.name))
            order |= {place.name: i for i, place in enumerate(row)}
        crossings = _crossings(rows, edges)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    return best


def _neighbours(name: str, edges: Sequence[Edge], *, down: bool) -> list[str]:
    return [b for a, b in edges if a == name] if down else [a for a, b in edges if b == name]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _crossings(rows: list[list[Place]], edges: Sequence[Edge]) -> int:
    place = {p.name: (n, i) for n, row in enumerate(rows) for i, p in enumerate(row)}
    spans = [(place[a], place[b]) for a, b in edges]
    return sum(
        a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0 for n, (a, b) in enumerate(spans) for c, d in spans[n + 1 :]
    )


def columns(rows: list[list[Place]], edges: Sequence[Edge]) -> dict[str, float]:
    """The middle of every place, so that arrows are as straight as order and widths allow."""
    x = {p.name: float(i * (BOX + GAP)) for row in rows for i, p in enumerate(row)}
    for sweep in range(60):
        for row in rows if sweep % 2 else reversed(rows):
            wanted = []
            for place in row:
                near = [x[n] for down in (True, False) for n in _neighbours(place.name, edges, down=down)]
                wanted.append(x[place.name] if not near else math.fsum(near) / len(near))
            x |= dict(zip((p.name for p in row), _apart(row, wanted), strict=True))
    left = min(x[p.name] - p.width / 2 for row in rows for p in row)
    return {name: round(value - left + MARGIN, 1) for name, value in x.items()}


def _apart(row: Sequence[Place], wanted: Sequence[float]) -> list[float]:
    """The positions nearest to the wanted ones at which neighbours do not touch (pool adjacent violators)."""
    shift, shifts = 0.0, [0.0]
    for a, b in itertools.pairwise(row):
        shift += (a.width + b.width) / 2 + GAP
        shifts.append(shift)
    groups: list[list[float]] = []
    for value, own in zip(wanted, shifts, strict=True):
        groups.append([value - own])
        while len(groups) > 1 and _middle(groups[-2]) > _middle(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    found = [_middle(group) for group in groups for _ in group]
    return [value + own for value, own in zip(found, shifts, strict=True)]


def _middle(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def picture() -> str:
    """The picture, as SVG."""
    graph, about = imports()
    rows, edges = rows_of(reduced(graph))
    x = columns(rows, edges)
    texts = {part: textwrap.wrap(sentence, 30) for part, sentence in about.items()}
    heights = [max(26 + LINE * len(texts.get(p.name, ())) for p in row) for row in rows]
    top, tops = float(MARGIN), list[float]()
    for height in reversed(heights):
        tops.insert(0, top)
        top += height + BETWEEN
    width = max(x[p.name] + p.width / 2 for row in rows for p in row) + MARGIN
    y = {p.name: (tops[n], tops[n] + heights[n]) for n, row in enumerate(rows) for p in row}
    arrows = [_arrow(edge, x, y, edges, set(graph)) for edge in edges]
    boxes = [_box(p.name, texts.get(p.name, []), x, y) for row in rows for p in row if p.width == BOX]
    size = f'viewBox="0 0 {width:g} {top - BETWEEN + MARGIN:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *arrows, *boxes, "</svg>", ""])


def _arrow(
    edge: Edge, x: dict[str, float], y: dict[str, tuple[float, float]], edges: Sequence[Edge], boxes: set[str]
) -> str:
    """One stretch of an arrow between neighbouring rows: on to the foot of the row, or with its head at a box."""
    a, b = edge
    begin, end = (_port(n, m, x, edges, n in boxes, down=n == a) for n, m in ((a, b), (b, a)))
    above, below = y[a][1], y[b][0]
    middle = (above + below) / 2
    through = "" if b in boxes else f" V{y[b][1]:g}"
    path = f"M{begin:g},{above:g} C{begin:g},{middle:g} {end:g},{middle:g} {end:g},{below:g}{through}"
    line = f'<path d="{path}" fill="none" stroke="#8a97a6" stroke-width="1.2"/>'
    tip = f'<path d="M{end - 3.5:g},{below - 7:g} L{end + 3.5:g},{below - 7:g} L{end:g},{below:g} Z" fill="#8a97a6"/>'
    return line + tip if b in boxes else line


def _port(name: str, other: str, x: dict[str, float], edges: Sequence[Edge], box: bool, *, down: bool) -> float:
    """Where an arrow leaves or enters a box: its arrows side by side, in the order of their other ends."""
    ends = sorted(_neighbours(name, edges, down=down), key=lambda n: (x[n], n))
    share = (ends.index(other) + 1) / (len(ends) + 1) - 0.5 if box else 0.0
    return round(x[name] + share * (BOX - 20), 1)


def _box(part: str, lines: Sequence[str], x: dict[str, float], y: dict[str, tuple[float, float]]) -> str:
    """A part with what its first sentence says."""
    single = not (ROOT / "llcert" / part).is_dir() and part != "llcert_train"
    fill, stroke = ("#f6f6f4", "#b3b3ad") if single else ("#e9f1fb", "#5c84b1")
    left, (top, bottom) = x[part] - BOX / 2, y[part]
    name = f"{part}.py" if single else f"{part}/"
    size = f'width="{BOX}" height="{bottom - top:g}" rx="5"'
    parts = [f'<rect x="{left:g}" y="{top:g}" {size} fill="{fill}" stroke="{stroke}"/>']
    parts.append(f'<text x="{left + 8:g}" y="{top + 17:g}" font-size="13" font-weight="bold">{name}</text>')
    for number, line in enumerate(lines):
        at = top + 31 + LINE * number
        parts.append(f'<text x="{left + 8:g}" y="{at:g}" font-size="10" fill="#333333">{escape(line)}</text>')
    return "".join(parts)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
