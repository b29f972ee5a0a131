"""Regions through a program: boxes, balls and masks, block by block (METHOD, sections 2 and 3)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llcert.bounds.box import Hidden, box
from llcert.bounds.join import Reach, reach
from llcert.bounds.lipschitz import GlobalBound
from llcert.bounds.roundoff import Roundoff
from llcert.ir import Node
from llcert.layout import flat
from llcert.program import Block, Program, Term
from llcert.region import Region
from llcert.relaxation import Relaxation, Zone
from llcert.spectral import Lanczos, Masked, Norm, Side, Solver, random_start


class Start(enum.Enum):
    """Where a power iteration starts (paper, section 4; Table 1)."""

    RANDOM = "random"
    SAVED = "saved"  # vectors handed in, one for each image; random where there are none
    UNMASKED = "unmasked"  # the singular vector of the unmasked map


class RowWeighting(enum.Enum):
    """How rows are weighted in a local norm."""

    MASK = "mask"  # 0/1 and activation slopes: a Lipschitz bound between any two points of the ball (eq. 6)
    SECANT = "secant"  # chords from the centre: a bound on deviation from the image alone; never larger


class Balls(enum.Enum):
    """What the radius of every value comes from."""

    LOCAL = "local"  # norms of each image's masked maps (eq. 6)
    GLOBAL = "global"  # unmasked norms, the same for all images (BCP)
    BOX = "box"  # none: the farthest corner of the box (interval bounds)


@dataclass(frozen=True)
class Trace:
    """Everything a forward pass found. An ESTIMATE wherever its norms are.

    pre_activation: the region of each block's value before its activation (radius: infinite). weighted: weights and
    radius of that value, `||weights (z - centre)|| <= radius`. post_activation: of each block's output, keyed by its
    node, and of the input. norms: of each term, `[batch]` each, where they are local. lipschitz: Lipschitz constant of
    every block's output with respect to the image on each ball, `[batch]` (eq. 6), and 1 for the input; empty with
    boxes alone, and with local balls under RowWeighting.SECANT, where it bounds deviation from the image only.
    logit_lipschitz: that of the logits, None where lipschitz is empty. side: the weakest side among the norms used.
    roundoff: what rounding was paid, None for an estimate.

    Nodes are compared by identity, and a block's node is its own, so what is keyed by block.node (pre_activation,
    weighted, joint, lipschitz, the steps, post_activation besides the input's) has one owner; a term is told apart by
    its block (see Term).
    """

    pre_activation: dict[Node, Region] = field(default_factory=dict)
    weighted: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)
    post_activation: dict[Node, Hidden] = field(default_factory=dict)
    norms: dict[Term, Norm] = field(default_factory=dict)
    joint: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lipschitz: dict[Node, Tensor] = field(default_factory=dict)
    logit_lipschitz: Tensor | None = None
    side: Side = Side.ESTIMATE
    roundoff: Roundoff | None = None
    _steps: dict[Node, tuple[Relaxation, ...] | None] = field(default_factory=dict, repr=False)

    def steps(self, block: Block) -> tuple[Relaxation, ...] | None:
        """The relaxations of a block's activation, none where it has no activation; None where it cannot be relaxed."""
        if block.activation is None:
            return ()
        if block.node not in self._steps:
            z = self.pre_activation[block.node]
            zone = Zone(z.centre, z.lower, z.upper, *self.weighted[block.node])
            self._steps[block.node] = block.activation.relaxations(zone)
        return self._steps[block.node]

    def select(self, images: Tensor) -> Trace:
        """The trace of some images, with what their steps were cut to; images: mask or index."""
        return replace(
            self,
            pre_activation={n: z.select(images) for n, z in self.pre_activation.items()},
            weighted={n: (w[images], r[images]) for n, (w, r) in self.weighted.items()},
            post_activation={
                n: Hidden(h.region.select(images), h.varying[images]) for n, h in self.post_activation.items()
            },
            norms={t: n.select(images) for t, n in self.norms.items()},
            joint={n: (v[images], t[images]) for n, (v, t) in self.joint.items()},
            lipschitz={n: g[images] for n, g in self.lipschitz.items()},
            logit_lipschitz=None if self.logit_lipschitz is None else self.logit_lipschitz[images],
            roundoff=None if self.roundoff is None else self.roundoff.select(images),
            _steps={n: None if s is None else tuple(r.select(images) for r in s) for n, s in self._steps.items()},
        )


def propagate(  # noqa: PLR0913
    program: Program,
    region: Region,
    global_bound: GlobalBound | None,
    *,
    balls: Balls = Balls.LOCAL,
    weighting: RowWeighting = RowWeighting.MASK,
    solver: Solver | None = None,
    start: Start = Start.UNMASKED,
    saved: Mapping[Term, Tensor] | None = None,
    seed: int | Tensor = 0,
    joint: bool = True,
    boxes: Mapping[Node, tuple[Tensor, Tensor]] | None = None,
) -> Trace:
    """Outer bounds of every value over `region`, with local norms that are never above the global ones.

    region: of the image, `[batch, *input shape]`. global_bound: the global bound of the same program: local norms that
    do not converge fall back on it; None for Balls.BOX, which needs none. saved: start vectors `[batch, *columns]` of
    earlier calls, for Start.SAVED. seed: of random starts, one or `[batch]`. joint: as for `global_bound`. boxes: more
    that is known of the values of some blocks before their activation: lower and upper, `[batch, *shape]`.
    The result is an ESTIMATE: its norms come from power iteration, and rounding is not paid for.
    """
    if global_bound is None and balls is not Balls.BOX:
        raise ValueError(f"{balls} need the global bound")
    everything = torch.ones_like(region.centre, dtype=torch.bool)
    trace = Trace(post_activation={program.input: Hidden(region, everything)})
    lipschitz = {program.input: torch.ones_like(region.radius)}
    for number, block in enumerate(program.blocks):
        sources = {s: trace.post_activation[s] for s in block.sources}
        z = box(block, sources)
        if boxes and block.node in boxes:
            z = z.within(*boxes[block.node])
        weights = row_weights(block, z, weighting)
        radius = torch.full_like(region.radius, torch.inf)
        if global_bound is not None and balls is not Balls.BOX:
            ceiling = global_bound.lipschitz[block.node].expand_as(radius)
            lipschitz[block.node], radius = ceiling, ceiling * region.radius
            if balls is Balls.LOCAL:
                masked = _masked(block, sources, weights)
                for term, own in masked.items():
                    given = starting_vector(term, global_bound, own.columns, start, saved, seed + number)
                    whole = _whole(block, own, global_bound, given)
                    trace.norms[term] = whole or _local_norm(own, global_bound, solver or Lanczos(), given)
                moved = _reach(block, masked, trace, (solver or Lanczos()) if joint else None, seed + number)
                lipschitz[block.node] = _at_most(moved([lipschitz[t.source] for t in block.terms]), ceiling)
                radius = _at_most(moved([sources[t.source].region.radius for t in block.terms]), radius)
        trace.pre_activation[block.node], trace.weighted[block.node] = z, (weights, radius)
        trace.post_activation[block.node] = _activate(block, z, radius, sources)
    bounded = balls is Balls.GLOBAL or (balls is Balls.LOCAL and weighting is RowWeighting.MASK)
    return replace(trace, lipschitz=lipschitz, logit_lipschitz=lipschitz[program.output]) if bounded else trace


def _masked(block: Block, sources: Mapping[Node, Hidden], rows: Tensor) -> dict[Term, Masked]:
    """Each term of a block without the rows and columns that stay constant."""
    return {t: Masked(t, rows, sources[t.source].mask) for t in block.terms}


def _reach(
    block: Block, masked: Mapping[Term, Masked], trace: Trace, solver: Solver | None, seed: int | Tensor
) -> Reach:
    """How far the block's output moves, by the norms the trace holds."""
    rows = next(iter(masked.values())).rows
    columns = [masked[t].columns for t in block.terms]
    sizes = [trace.norms[t].value for t in block.terms]
    radii = [trace.post_activation[t.source].region.radius for t in block.terms]
    return reach(block, rows, columns, sizes, radii, solver, seed)


def row_weights(block: Block, z: Region, weighting: RowWeighting) -> Tensor:
    """The factor of each row of a block's map, `[batch, *pre shape]`: mask and slope, or centre secant."""
    if block.activation is None:
        return torch.ones_like(z.centre)
    return block.activation.slope(z) if weighting is RowWeighting.MASK else block.activation.secant(z)


def starting_vector(
    term: Term,
    global_bound: GlobalBound,
    columns: Tensor,
    start: Start,
    saved: Mapping[Term, Tensor] | None,
    seed: int | Tensor,
) -> Tensor:
    """`[batch, *columns]`: where the power iteration of a term begins.

    The unmasked vector is nudged; saved ones are taken as they are.
    """
    if start is Start.SAVED and saved is not None and term in saved:
        return saved[term].to(columns.device, columns.dtype)
    if start is Start.UNMASKED:
        return nudged(global_bound.vectors[term].expand_as(columns), seed)
    return random_start(tuple(columns.shape), columns, seed)


def nudged(vectors: Tensor, seed: int | Tensor) -> Tensor:
    """Unit vectors of another map and as much noise, `[batch, *columns]`, a start for an iteration on this one.

    Near a singular vector that is not the largest one a power iteration stands still, and stops below the norm.
    """
    return vectors + random_start(tuple(vectors.shape), vectors, seed) / max(vectors.shape[1:].numel(), 1) ** 0.5


def _whole(block: Block, masked: Masked, global_bound: GlobalBound, start: Tensor) -> Norm | None:
    """The global norm, where no image's masks leave anything out of the map: nothing else is to be found."""
    phi = block.activation
    slopes = torch.ones(()) if phi is None else phi.global_slope(block.pre.shape)
    full = bool((masked.columns == 1).all()) and bool((masked.rows == slopes.to(masked.rows)).all())
    term = masked.map
    assert isinstance(term, Term)
    if not full or term.moves:
        return None
    value = global_bound.norms[term].expand(masked.batch)
    vector = global_bound.vectors[term].expand_as(start) if term in global_bound.vectors else start
    return Norm(value, Side.ESTIMATE, vector, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))


def _local_norm(masked: Masked, global_bound: GlobalBound, solver: Solver, start: Tensor) -> Norm:
    """The local norm, cut at the global one (Theorem 1), which also answers where the solver did not converge."""
    term = masked.map
    assert isinstance(term, Term)
    ceiling = global_bound.norms[term].expand(masked.batch)
    if term.moves:
        value = flat(masked.rows * term.magnitude(masked.columns)).amax(1)
        norm = Norm(value, Side.UPPER, start, torch.zeros_like(value, dtype=torch.int64), torch.isfinite(value))
    else:
        norm = solver(masked, start)
    trusted = norm.converged & (norm.value <= ceiling)
    return Norm(torch.where(trusted, norm.value, ceiling), norm.side, norm.vector, norm.iterations, norm.converged)


def _at_most(value: Tensor, ceiling: Tensor) -> Tensor:
    """A bound cut at the global one, which also answers where it is NaN."""
    return torch.where(value <= ceiling, value, ceiling.expand_as(value))


def _activate(block: Block, z: Region, radius: Tensor, sources: Mapping[Node, Hidden]) -> Hidden:
    phi = block.activation
    if phi is None:
        region = Region(z.centre, z.lower, z.upper, radius)
        varying = torch.stack([t.reached(sources[t.source].varying) for t in block.terms]).any(0)
    else:
        region = Region(phi(z.centre), *phi.box(z.lower, z.upper), radius)
        varying = phi.varying(z)
    return Hidden(region.ball_to_box().box_to_ball(), varying)
