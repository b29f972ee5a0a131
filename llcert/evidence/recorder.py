"""Listens to a prover, and turns its proofs into the evidence of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.bounds import CheckerSlack
from llcert.bounds.forward.box import Hidden, box
from llcert.certify import Proof, Row, positive
from llcert.evidence.canonical import Arrays, Canonical
from llcert.evidence.matrices import row_norms
from llcert.ir import Node
from llcert.layout import flat
from llcert.program import Block, Program
from llcert.region import Region


@dataclass(frozen=True)
class Evidence:
    """Of one image: the arrays of its file, the class that is compared with others, the margin of the claim."""

    reference: int
    margin: float
    arrays: Arrays


@dataclass
class Recorder:
    """A witness. canonical: of the program it was last asked for a frame. single: whether proofs speak of float32 too.
    found: evidence by index of the image in the data set, which is certified once."""

    canonical: Canonical | None = None
    single: bool = False
    found: dict[int, Evidence] = field(default_factory=dict)

    def slack(self, program: Program, deployed: bool) -> CheckerSlack:
        """The boxes of the checker's rule 2, and its room for rounding. Raises UnsupportedModel."""
        self.single = deployed
        self.canonical = Canonical.of(program, deployed=deployed)
        return CheckerSlack(self._box)

    def keep(self, proof: Proof, labels: Tensor, indices: Tensor) -> None:
        """Keeps the evidence of every image whose claim is proved: the rows of all margins that are above 0."""
        assert self.canonical is not None
        for i in torch.nonzero(positive(proof.margin))[:, 0].tolist():
            arrays = _regions(self.canonical, proof, i)
            for (image, j), row in proof.rows.items():
                if image == i:
                    arrays |= _row(self.canonical, row, j)
            self.found[int(indices[i])] = Evidence(int(labels[i]), float(proof.margin[i]), arrays)

    def take(self, index: int) -> Evidence | None:
        """The evidence of an image, which is then forgotten."""
        return self.found.pop(index, None)

    def _box(self, block: Block, sources: Mapping[Node, Hidden]) -> Region:
        """Interval arithmetic through the block, cut by the norms of whole rows times the balls of the sources."""
        assert self.canonical is not None
        region = box(block, sources, balls=False)
        reach = torch.zeros_like(region.centre)
        for source, matrix in self.canonical.maps[block.node].items():
            known = sources[source]
            norms = row_norms(matrix, flat(known.varying).double().cpu().numpy())
            moved = torch.from_numpy(norms).to(reach.device) * known.region.radius[:, None]
            reach = reach + moved.reshape(reach.shape)
        lower, upper = torch.maximum(region.lower, region.centre - reach), region.centre + reach
        return Region(region.centre, lower, torch.minimum(region.upper, upper), region.radius)


def _flat(values: Tensor) -> NDArray[np.float64]:
    return np.ascontiguousarray(values.detach().double().cpu().reshape(-1).numpy())


def _regions(canonical: Canonical, proof: Proof, i: int) -> Arrays:
    """What rules 1 to 6 ask of image number i of a proof."""
    trace, program = proof.trace, canonical.program
    arrays: Arrays = {"x": _flat(trace.post_activation[program.input].region.centre[i])}
    for block in program.blocks:
        k, z = canonical.numbers[block.node], trace.pre_activation[block.node]
        weights, radius = trace.weighted[block.node]
        arrays |= {f"{k}.centre": _flat(z.centre[i]), f"{k}.lower": _flat(z.lower[i]), f"{k}.upper": _flat(z.upper[i])}
        arrays |= {f"{k}.weights": _flat(weights[i].expand(block.pre.shape)), f"{k}.radius": _scalar(radius[i])}
        arrays |= {f"{k}.after": _scalar(trace.post_activation[block.node].region.radius[i])}
        for term in block.terms:
            arrays[f"{k}.norm.{canonical.numbers[term.source]}"] = _scalar(trace.norms[term].value[i])
        arrays |= _joint(canonical, proof, block, i)
    return arrays


def _scalar(value: Tensor) -> NDArray[np.float64]:
    return np.array(float(value))


def _joint(canonical: Canonical, proof: Proof, block: Block, i: int) -> Arrays:
    """The norm of all maps side by side, where it is what the radius comes from."""
    if block.node not in proof.trace.joint:
        return {}
    known = proof.trace.joint[block.node]
    joint, shares = known.value[i], known.weights[:, i]
    radii = torch.stack([proof.trace.post_activation[t.source].region.radius[i] for t in block.terms])
    norms = torch.stack([proof.trace.norms[t].value[i] for t in block.terms])
    if not float(joint * (radii / shares).norm()) < float((norms * radii).sum()):
        return {}
    k, order = canonical.numbers[block.node], [canonical.numbers[t.source] for t in block.terms]
    return {f"{k}.joint": _scalar(joint), f"{k}.shares": _flat(shares)[np.argsort(order)]}


def _row(canonical: Canonical, row: Row, j: int) -> Arrays:
    """What rule 7 asks of class j."""
    arrays: Arrays = {f"{j}.stop": np.array(canonical.numbers[row.stop], np.int64)}
    for (block, step), choice in row.choices.items():
        k = canonical.numbers[canonical.program.blocks[block].node]
        arrays |= {f"{j}.{k}.slopes.{step}": _flat(choice.slopes), f"{j}.{k}.lam.{step}": _scalar(choice.lam)}
    return arrays | {f"{j}.end.{canonical.numbers[n]}": np.array(lam) for n, lam in row.ends.items()}
