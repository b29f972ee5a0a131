"""Evidence of intermediate bounds: the backward rows that cut boxes, and the regions that these were computed over."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from llcert.bounds import Trace
from llcert.bounds.backward.choices import Key
from llcert.bounds.backward.intermediate import IntermediateBounds
from llcert.certificate_writer.canonical import Arrays, Canonical
from llcert.certificate_writer.regions import flat_array, region_arrays
from llcert.certification import Regions
from llcert.domain.region import Region
from llcert.numerics.tensors import flat


def intermediate(canonical: Canonical, regions: Regions, i: int) -> Arrays:
    """The rows that bound blocks' values for image number i, their multipliers and slopes, and the first regions."""
    first, blocks = regions.first, canonical.program.blocks
    if first is None:
        return {}
    entries = {
        number: _cutting(regions.boxes[block.node], regions.trace.pre_activation[block.node], i)
        for number, block in enumerate(blocks)
        if block.node in regions.boxes
    }
    used = [number for number, rows in entries.items() if len(rows)]
    own = first.select(torch.tensor([i], device=canonical.program.device))
    arrays: Arrays = {}
    for number in used:
        arrays |= _rows(canonical, number, regions.boxes[blocks[number].node], entries[number], i)
    for number in range(used[0], used[-1]) if used else ():
        known = region_arrays(canonical, own, blocks[number], 0)
        arrays |= {f"first.{name}": values for name, values in known.items()}
    for key in sorted({key for number in used for key in regions.boxes[blocks[number].node].lam}):
        arrays |= _slopes(canonical, own, key)
    return arrays


def _cutting(box: IntermediateBounds, z: Region, i: int) -> NDArray[np.int64]:
    """The entries whose region is as small as it is because of a backward row."""
    lower, upper = (flat(end[i : i + 1])[0] for end in box.ends)
    cut = (lower >= flat(z.lower[i : i + 1])[0]) | (upper <= flat(z.upper[i : i + 1])[0])
    rows = box.bounded[i] & torch.isfinite(lower) & torch.isfinite(upper) & cut
    return torch.nonzero(rows)[:, 0].cpu().numpy()


def _rows(canonical: Canonical, number: int, box: IntermediateBounds, entries: NDArray[np.int64], i: int) -> Arrays:
    """Which entries of a block have rows, and the multipliers of these at every block below."""
    numbers, blocks = canonical.numbers, canonical.program.blocks
    k = numbers[blocks[number].node]
    arrays: Arrays = {f"{k}.rows": entries}
    for (below, step), lam in box.lam.items():
        name = f"{k}.rows.{numbers[blocks[below].node]}.lam.{step}"
        arrays[f"{name}.lower"], arrays[f"{name}.upper"] = (flat_array(side[i])[entries] for side in lam)
    return arrays


def _slopes(canonical: Canonical, first: Trace, key: Key) -> Arrays:
    """The slopes of a step for positive and for negative coefficients: the tightest over its box.

    first: of one image.
    """
    block, number = canonical.program.blocks[key[0]], key[1]
    steps = first.relaxations(block)
    assert steps is not None, "rows do not pass what has no relaxation"
    step, name = steps[number], f"{canonical.numbers[block.node]}.slopes.{number}"
    plus, minus = (flat_array(step.slopes(sign * torch.ones_like(step.zone.centre)[:, None])) for sign in (1, -1))
    return {f"{name}.plus": plus, f"{name}.minus": minus}
