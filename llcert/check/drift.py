"""Rule 10: how far a float32 evaluation of the network, in any order of summation, lies from the real one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llcert.check.activations import Clamp, Leaky, MaxMin
from llcert.check.files import Arrays, require, valid
from llcert.check.forward import Cut, Known
from llcert.check.graph import LEAST, Block, Graph, Linear, floored
from llcert.check.norms import Part, proves, schur
from llcert.check.numbers import U32, Vector, above, gamma, length, up


@dataclass(frozen=True)
class Drift:
    """For one network: norms of whole blocks, from global.npz, and bounds on those of the absolute values."""

    graph: Graph
    norms: Arrays
    absolute: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises where a norm is not proved, or the network holds what float32 does not."""
        last = len(self.graph.nodes) - 1
        for k, block in self.graph.blocks.items():
            _check_single(block)
            valid(block.activation is None or k < last, "graph.json: the last node is an activation (float32)")
            for s in block.sources:
                self.absolute[k, s] = schur(block.maps[s].sizes)
                if s == 0 or k == last:
                    continue  # no drift to carry on, or no cut that it is carried to
                size = self.graph.nodes[block.pre].size
                steep = block.activation.steepest if block.activation else 1.0
                part = Part(block.maps[s], np.ones(self.graph.nodes[s].size, bool), steep)
                bound = self.norms.scalar(f"{k}.{s}")
                step = f"rule 10 (float32), global norm, block {k} from source {s}: {bound:.6g} is not proved"
                require(proves([part], np.ones(size), bound), step)

    def of(self, known: Known) -> dict[int, float]:
        """Upper bounds of the drift at every cut but the last, in 2-norm, for every x' of the ball."""
        drifts = {0: 0.0}
        for k, block in self.graph.blocks.items():
            if k == len(self.graph.nodes) - 1:
                break
            steep = block.activation.steepest if block.activation else 1.0
            sizes, extra = self._sizes(block, known, drifts)
            rounding = above(gamma(block.forwards, U32) * (length(sizes) + extra), 3)
            carried = [above(self.norms.scalar(f"{k}.{s}") * drifts[s], 1) for s in block.sources if s]
            drift = above(math.fsum(carried) + steep * rounding, 4)
            if isinstance(block.activation, Leaky):
                cut = known.cuts[k]
                drift = above(drift + 2.0**-23 * (length(np.maximum(-cut.lower, cut.upper)) + drift), 4)
            drifts[k] = up(drift + above(math.sqrt(self.graph.nodes[k].size), 1) * 2.0**-125)
        return drifts

    def at_the_logits(self, known: Known) -> tuple[Vector, dict[int, float]]:
        """Upper bounds of the roundings of each logit in the last block, and the drifts in front of it."""
        drifts, block = self.of(known), self.graph.blocks[len(self.graph.nodes) - 1]
        sizes, extra = self._sizes(block, known, drifts)
        return above(gamma(block.forwards, U32) * (sizes + extra), 3), drifts

    def lost(self, logits: tuple[Vector, dict[int, float]], *, label: int, other: int) -> float:
        """An upper bound of what the margin loses."""
        block = self.graph.blocks[len(self.graph.nodes) - 1]
        terms = [float(logits[0][label]), float(logits[0][other])]
        for s in block.sources:
            linear = block.maps[s]
            first, second = (linear.matrix[[i]].toarray()[0] for i in (label, other))
            sizes = sum(linear.sizes[[i]].toarray()[0] for i in (label, other))
            both = up(np.abs(first - second)) + above(gamma(linear.roundings) * sizes, 2)
            terms.append(above(length(both) * logits[1][s], 1))
        return float(above(math.fsum(terms), 2))

    def _sizes(self, block: Block, known: Known, drifts: Mapping[int, float]) -> tuple[Vector, float]:
        """Upper bounds of `|A| |h| + magnitude`, and of the 2-norm of what drift adds to it."""
        sources = {s: known.cuts[s] for s in block.sources}
        _check_range(block, sources, drifts)
        reached = block.walk({s: c.size + LEAST for s, c in sources.items()}, _size)[block.pre]
        extra = [above(self.absolute[block.cut, s] * drifts[s], 1) for s in sources if s]
        return above(reached, block.forwards + 4), float(above(math.fsum(extra), 2))


def _size(linear: Linear, x: Vector) -> Vector:
    return floored(linear.absolute) @ x + linear.magnitude + LEAST


def _check_range(block: Block, sources: Mapping[int, Cut], drifts: Mapping[int, float]) -> None:
    """Every value a float32 evaluation can meet, its partial sums included, is below 2^127."""
    start = {s: up(c.size + drifts[s]) + LEAST for s, c in sources.items()}
    largest = max(float(v.max()) for v in block.walk(start, _size).values())
    enough = above(largest, block.forwards + 4) < 2.0**127
    require(enough, f"rule 10 (float32), block {block.cut}: a value may reach 2^127")


def _check_single(block: Block) -> None:
    """The thresholds and slopes of an activation are float32 numbers, or the deployed network has others."""
    phi = block.activation
    held = [phi.below] if isinstance(phi, Leaky) else [phi.low, phi.high] if isinstance(phi, Clamp | MaxMin) else []
    right = all(np.array_equal(v, v.astype(np.float32).astype(float)) for v in held)
    require(right, f"rule 10 (float32), block {block.cut}: a threshold or slope is no float32 number")
