"""Rules 1 to 6: boxes and balls through the network, block by block, from the evidence of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from llcert.checker import deployed
from llcert.checker.blocks import Block, Map
from llcert.checker.boxes import BackwardBoxes
from llcert.checker.files import Arrays, require
from llcert.checker.graph import Graph
from llcert.checker.known import Before, Cut, Known, Passage, Zone
from llcert.checker.nodes import with_data
from llcert.checker.norms import Part, proves
from llcert.checker.numbers import Format, Mask, U, Vector, above, down, gamma, length, up

Range = tuple[float, float]


def propagate(graph: Graph, image: Arrays, eps: float, *, within: Range | None = None, run: bool) -> Known:
    """What holds for every x' of the ball, within a range. Raises Rejected at the first rule that does not hold.

    run: of every evaluation in the formats of the values too.
    """
    form = graph.nodes[0].form if run else None
    start = _input(image.vector("x", graph.nodes[0].size), eps, within, form)
    cuts, before = {0: start}, dict[int, Before]()
    first_cuts, first_before = {0: start}, dict[int, Before]()  # what rows of rule 11 are bounded over
    first, rows = image.first(), BackwardBoxes(graph.blocks, Known(first_cuts, first_before), image)
    for k, block in graph.blocks.items():
        before[k] = _before(block, image, {s: cuts[s] for s in block.sources}, run, rows)
        cuts[k] = _after(block, image, before[k])
        first_before[k], first_cuts[k] = before[k], cuts[k]
        if f"{k}.lower" in first:
            first_before[k] = _before(block, first, {s: first_cuts[s] for s in block.sources}, run)
            first_cuts[k] = _after(block, first, first_before[k])
    return Known(cuts, before, restricted=within is not None)


def _input(x: Vector, eps: float, within: Range | None, form: Format | None) -> Cut:
    """The ball, its box cut to a range; rule 10: and every point of it rounded to a format."""
    lower, upper, everything = down(x - eps), up(x + eps), np.ones(x.size, bool)
    if within is not None:
        require(np.all((within[0] <= x) & (x <= within[1])), "the image leaves the range that the claim is about")
        lower, upper = np.maximum(lower, within[0]), np.minimum(upper, within[1])
    if form is None:
        return Cut(x, lower, upper, eps, everything)
    lost = deployed.rounded(np.maximum(np.abs(lower), np.abs(upper)), form)
    return Cut(x, down(lower - lost), up(upper + lost), up(eps + length(lost)), everything)


def _before(
    block: Block, image: Arrays, sources: Mapping[int, Cut], run: bool, rows: BackwardBoxes | None = None
) -> Before:
    """Rules 1 to 5. rows: what may narrow the box."""
    k, size = block.cut, block.value({s: c.centre for s, c in sources.items()}).size
    centre, lower, upper = (image.vector(f"{k}.{n}", size) for n in ("centre", "lower", "upper"))
    require(np.all((lower <= centre) & (centre <= upper)), f"rule 1 (centre), block {k}: outside its box")
    reached, total = block.size({s: c.size for s, c in sources.items()})
    error = _centre_error(block, sources, centre, reached)
    least, most = _reached_box(block, sources, _ball_box(block, sources, centre, error), reached)
    lost = np.zeros(size)
    if run:
        deployed.check_thresholds(block)
        lost = deployed.errors(block, {s: c.size for s, c in sources.items()}, np.maximum(np.abs(least), np.abs(most)))
        least, most = np.where(lost > 0, down(least - lost), least), np.where(lost > 0, up(most + lost), most)
        error = np.where(lost > 0, up(error + lost), error)
    passage = Passage(reached, total, lost)
    if rows is not None:
        least, most = rows.cut(block, passage, least, most)
    right = (lower <= least) & (most <= upper)
    require(np.all(right), f"rule 2 (box), block {k}: {_first(right)} does not contain what is reached")
    weights = image.positive(f"{k}.weights", size)
    chords = np.ones(size) if block.activation is None else block.activation.weights(centre, lower, upper)
    require(np.all(weights >= chords), f"rule 3 (weights), block {k}: {_first(weights >= chords)} is too small")
    radius = image.scalar(f"{k}.radius")
    rest = length(np.where((weights > 0) & (error > 0), above(weights * error, 2), 0.0))
    _check_radius(block, image, sources, weights, radius, rest)
    own = deployed.activation_errors(block, lower, upper) if run else np.zeros(size)
    return Before(Zone(centre, lower, upper, weights, radius), passage, own)


def _first(right: Mask) -> str:
    return f"entry {int(np.argmin(right))}"


def _centre_error(block: Block, sources: Mapping[int, Cut], centre: Vector, reached: Vector) -> Vector:
    """An upper bound of `|A c + b - centre|`: exactly 0 where nothing is computed and nothing differs."""
    difference = np.abs(block.value({s: c.centre for s, c in sources.items()}) - centre)
    return difference * (1 + 4 * U) + gamma(2 * block.forwards) * reached


def _ball_box(block: Block, sources: Mapping[int, Cut], centre: Vector, error: Vector) -> tuple[Vector, Vector]:
    """The box around the centre that follows from the balls of the sources."""
    reach = error
    for s, source in sources.items():
        reach = up(reach + up(_row_norms(block.maps[s], source.varies) * source.after))
    return down(centre - reach), up(centre + reach)


def _row_norms(linear: Map, varies: Mask) -> Vector:
    """Upper bounds of the norms of the rows, on the columns that vary."""
    counts = np.diff(linear.sizes.indptr)

    def norms(matrix: Map) -> Vector:
        squares = with_data(matrix.matrix, matrix.matrix.data**2) @ varies.astype(float)
        return above(np.sqrt(squares), int(counts.max()) + 4) + 2.0**-400

    found = norms(linear)
    if linear.roundings:
        found = up(found + above(gamma(linear.roundings) * norms(Map(linear.sizes, linear.sizes, 0)), 2))
    return found


def _reached_box(
    block: Block, sources: Mapping[int, Cut], ball: tuple[Vector, Vector], reached: Vector
) -> tuple[Vector, Vector]:
    """What rule 2 asks the box to contain, of the exact value.

    The box of the sources goes through as midpoint m and halfwidth w; `|m| + w` is the sources' size.
    """
    if block.forwards:
        middle = {s: c.lower / 2 + c.upper / 2 for s, c in sources.items()}
        half = {s: up(np.maximum(c.upper - middle[s], middle[s] - c.lower)) for s, c in sources.items()}
        m, slop = block.value(middle), above(gamma(4 * block.forwards + 8) * reached, 2)
        w = up(block.halfwidth(half) + slop)
        lower, upper = down(m - w), up(m + w)
    else:  # values only move, and nothing is rounded
        lower = block.value({s: c.lower for s, c in sources.items()})
        upper = block.value({s: c.upper for s, c in sources.items()})
    return np.maximum(lower, ball[0]), np.minimum(upper, ball[1])


def _check_radius(
    block: Block, image: Arrays, sources: Mapping[int, Cut], weights: Vector, radius: float, rest: float
) -> None:
    """Rules 4 and 5, by the first of the ways that fits."""
    k = block.cut
    parts = {s: Part(block.maps[s], source.varies) for s, source in sources.items()}
    if f"{k}.joint" in image:
        joint = image.scalar(f"{k}.joint")
        shares = image.positive(f"{k}.shares", len(sources))
        require(np.all(shares > 0), f"rule 5 (radius), block {k}: a share is 0")
        moved = np.array([source.after for source in sources.values()])
        if radius >= up(_product(joint, length(up(moved / shares))) + rest):
            shared = [Part(p.map, p.mask, float(share)) for p, share in zip(parts.values(), shares, strict=True)]
            require(proves(shared, weights, joint), f"rule 4 (norm), block {k}, joint: {joint:.6g} is not proved")
            return
    norms = {s: image.scalar(f"{k}.norm.{s}") for s in sources}
    moved = np.array([_product(norms[s], source.after) for s, source in sources.items()])
    total = length(moved) if block.disjoint else math.fsum(moved) * (1 + 4 * U)
    for s, part in parts.items():
        step = f"rule 4 (norm), block {k} from source {s}: {norms[s]:.6g} is not proved"
        require(proves([part], weights, norms[s]), step)
    require(radius >= up(total + rest), f"rule 5 (radius), block {k}: {radius:.6g} is too small")


def _product(a: float, b: float) -> float:
    """An upper bound of `a b`, for numbers >= 0; 0 where one of them is."""
    return float(above(a * b, 1)) if a and b else 0.0


def _after(block: Block, image: Arrays, before: Before) -> Cut:
    """Rule 6."""
    k, phi, z, after = block.cut, block.activation, before.zone, image.scalar(f"{block.cut}.after")
    if phi is None:
        centre, lower, upper = z.centre, z.lower, z.upper
        varies, error = np.ones(centre.size, bool), 0.0
    else:
        centre, (lower, upper), own = phi(z.centre), phi.image(z.lower, z.upper), before.own
        lower, upper = np.where(own > 0, down(lower - own), lower), np.where(own > 0, up(upper + own), upper)
        varies = ~phi.constant(z.lower, z.upper)
        error = length(phi.centre_error(z.centre)) + length(own)
    corner = length(np.maximum(np.maximum(upper - centre, centre - lower), 0.0) * (1 + 4 * U))
    enough = after >= (up(up(z.radius + up(error))) if error else z.radius) or after >= corner
    require(enough and math.isfinite(after), f"rule 6 (after), block {k}: {after:.6g} is too small")
    lower, upper = np.maximum(lower, down(centre - after)), np.minimum(upper, up(centre + after))
    return Cut(centre, lower, upper, after, varies)
