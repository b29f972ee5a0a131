"""Rules 1 to 6 and 10: checks the boxes and balls of all values, block by block, from the evidence of one image.

The evidence states a centre, box, weights, norms and radius for every block. Each is compared with what follows from
the blocks before it; what it states may be larger, never smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from llcert.checker import deployed
from llcert.checker.blocks import Block, Map
from llcert.checker.files import Arrays, require
from llcert.checker.graph import Graph
from llcert.checker.intermediate import BackwardBoxes
from llcert.checker.known import Cut, Known, PreActivation, Roundoff, Zone
from llcert.checker.nodes import with_data
from llcert.checker.norms import Part, proves
from llcert.checker.numbers import Format, Mask, U, Vector, above, down, gamma, length, up

Range = tuple[float, float]


def propagate(graph: Graph, image: Arrays, eps: float, *, within: Range | None = None, run: bool) -> Known:
    """Boxes and balls that hold for every x' of the ball of radius eps. Raises Rejected at the first rule that fails.

    within: the range of pixels that the claim is restricted to. run: whether they must also hold for every evaluation
    in the formats of the values (rule 10).
    """
    form = graph.nodes[0].form if run else None
    start = _input(image.vector("x", graph.nodes[0].size), eps, within, form)
    cuts, before = {0: start}, dict[int, PreActivation]()
    first_cuts, first_before = {0: start}, dict[int, PreActivation]()  # the regions for rows of rule 11
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
    """The ball around x, and its box within a range. form: both contain every point rounded to it too (rule 10)."""
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
) -> PreActivation:
    """What is known of a block before its activation: rules 1 to 5, and 10 where `run`.

    sources: what is known of its sources. rows: the rows of rule 11 that may narrow the box; None for first regions.
    """
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
    roundoff = Roundoff(reached, total, lost)
    if rows is not None:
        least, most = rows.narrowed(block, roundoff, least, most)
    right = (lower <= least) & (most <= upper)
    require(np.all(right), f"rule 2 (box), block {k}: {_first(right)} does not contain what is reached")
    weights = image.positive(f"{k}.weights", size)
    chords = np.ones(size) if block.activation is None else block.activation.weights(centre, lower, upper)
    require(np.all(weights >= chords), f"rule 3 (weights), block {k}: {_first(weights >= chords)} is too small")
    radius = image.scalar(f"{k}.radius")
    rest = deployed.weighted(weights, error, lost)
    if run:
        rest = min(rest, deployed.length_around_centre(block, sources, (centre, error), weights))
    _check_radius(block, image, sources, weights, radius, rest)
    own = deployed.activation_errors(block, lower, upper) if run else np.zeros(size)
    return PreActivation(Zone(centre, lower, upper, weights, radius), roundoff, own)


def _first(right: Mask) -> str:
    """The first entry that is not right, in words."""
    return f"entry {int(np.argmin(right))}"


def _centre_error(block: Block, sources: Mapping[int, Cut], centre: Vector, reached: Vector) -> Vector:
    """Rule 1: upper bounds of `|A c + b - centre|`, entrywise; exactly 0 where values only move and nothing differs."""
    difference = np.abs(block.value({s: c.centre for s, c in sources.items()}) - centre)
    return difference * (1 + 4 * U) + gamma(2 * block.forwards) * reached


def _ball_box(block: Block, sources: Mapping[int, Cut], centre: Vector, error: Vector) -> tuple[Vector, Vector]:
    """Rule 2(b): the box around the centre that follows from the balls of the sources. error: of the centre."""
    reach = error
    for s, source in sources.items():
        reach = up(reach + up(_row_norms(block.maps[s], source.varies) * source.after))
    return down(centre - reach), up(centre + reach)


def _row_norms(linear: Map, varies: Mask) -> Vector:
    """Upper bounds of the norms of the rows of a map, restricted to the columns that vary."""
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
    """Rule 2(a) and (b): a box that contains the exact value, by interval arithmetic from the boxes of the sources,
    intersected with the box `ball`.

    The interval arithmetic is that of midpoints m and halfwidths w; `|m| + w` is at most the size of the sources.
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
    """Rules 4 and 5. Raises Rejected unless the radius follows from proved norms: joint ones where they give it, else
    one of each source. rest: `||weights e||`, what the error of the centre adds."""
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
    """An upper bound of `a b` for numbers >= 0; exactly 0 where one of them is."""
    return float(above(a * b, 1)) if a and b else 0.0


def _after(block: Block, image: Arrays, before: PreActivation) -> Cut:
    """Rule 6: what is known of the value behind the activation."""
    k, phi, z, after = block.cut, block.activation, before.zone, image.scalar(f"{block.cut}.after")
    if phi is None:
        centre, lower, upper = z.centre, z.lower, z.upper
        varies, error = np.ones(centre.size, bool), 0.0
    else:
        centre, (lower, upper), own = phi(z.centre), phi.image(z.lower, z.upper), before.activation_error
        lower, upper = np.where(own > 0, down(lower - own), lower), np.where(own > 0, up(upper + own), upper)
        varies = ~phi.constant(z.lower, z.upper)
        error = length(phi.centre_error(z.centre)) + length(own)
    corner = length(np.maximum(np.maximum(upper - centre, centre - lower), 0.0) * (1 + 4 * U))
    enough = after >= (up(up(z.radius + up(error))) if error else z.radius) or after >= corner
    require(enough and math.isfinite(after), f"rule 6 (after), block {k}: {after:.6g} is too small")
    lower, upper = np.maximum(lower, down(centre - after)), np.minimum(upper, up(centre + after))
    return Cut(centre, lower, upper, after, varies)
