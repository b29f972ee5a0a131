"""Arrays for rule 11: the backward rows that narrow boxes, and the first regions over which the rows were computed.

Rows pass the activations below them by slopes that all rows share, the tightest over the box of the first regions, and
by multipliers of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from llcert.bounds import Trace
from llcert.bounds.backward.choices import Key
from llcert.bounds.backward.intermediate import IntermediateBounds
from llcert.certificate_writer.graph import Arrays, CertificateGraph
from llcert.certificate_writer.regions import flat_array, region_arrays
from llcert.certification import Regions
from llcert.domain.region import Region
from llcert.numerics.tensors import flat


def intermediate_arrays(graph: CertificateGraph, regions: Regions, i: int) -> Arrays:
    """The rows of image number i, their multipliers and slopes, and the first regions of the blocks that they pass.

    Only rows that narrow a box are written. There are none where the proof has no intermediate bounds.
    """
    first, blocks = regions.first, graph.program.blocks
    if first is None:
        return {}
    entries = {
        number: _narrowing(regions.boxes[block.node], regions.trace.pre_activation[block.node], i)
        for number, block in enumerate(blocks)
        if block.node in regions.boxes
    }
    used = [number for number, rows in entries.items() if len(rows)]
    own = first.select(torch.tensor([i], device=graph.program.device))
    arrays: Arrays = {}
    for number in used:
        arrays |= _rows(graph, number, regions.boxes[blocks[number].node], entries[number], i)
    for number in range(used[0], used[-1]) if used else ():
        known = region_arrays(graph, own, blocks[number], 0)
        arrays |= {f"first.{name}": values for name, values in known.items()}
    for key in sorted({key for number in used for key in regions.boxes[blocks[number].node].lam}):
        arrays |= _slopes(graph, own, key)
    return arrays


def _narrowing(box: IntermediateBounds, z: Region, i: int) -> NDArray[np.int64]:
    """The entries of a block whose box a backward row narrows on at least one side. z: the box of the proof."""
    lower, upper = (flat(end[i : i + 1])[0] for end in box.ends)
    narrower = (lower >= flat(z.lower[i : i + 1])[0]) | (upper <= flat(z.upper[i : i + 1])[0])
    rows = box.bounded[i] & torch.isfinite(lower) & torch.isfinite(upper) & narrower
    return torch.nonzero(rows)[:, 0].cpu().numpy()


def _rows(graph: CertificateGraph, number: int, box: IntermediateBounds, entries: NDArray[np.int64], i: int) -> Arrays:
    """The entries of block `number` that have rows, and the multipliers of these rows at every activation below."""
    numbers, blocks = graph.numbers, graph.program.blocks
    k = numbers[blocks[number].node]
    arrays: Arrays = {f"{k}.rows": entries}
    for (below, step), lam in box.lam.items():
        name = f"{k}.rows.{numbers[blocks[below].node]}.lam.{step}"
        arrays[f"{name}.lower"], arrays[f"{name}.upper"] = (flat_array(side[i])[entries] for side in lam)
    return arrays


def _slopes(graph: CertificateGraph, first: Trace, key: Key) -> Arrays:
    """The tightest slopes of a step for positive and for negative coefficients, over its box. first: of one image."""
    block, number = graph.program.blocks[key[0]], key[1]
    steps = first.relaxations(block)
    assert steps is not None, "rows do not pass what has no relaxation"
    step, name = steps[number], f"{graph.numbers[block.node]}.slopes.{number}"
    plus, minus = (flat_array(step.slopes(sign * torch.ones_like(step.zone.centre)[:, None])) for sign in (1, -1))
    return {f"{name}.plus": plus, f"{name}.minus": minus}
