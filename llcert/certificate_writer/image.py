"""images/N.npz: the arrays of evidence of an image, from its proof (docs/certificate.md, section 1.3)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llcert.certificate_writer.graph import Arrays, CertificateGraph
from llcert.certificate_writer.intermediate import intermediate_arrays
from llcert.certificate_writer.regions import flat_array, region_arrays
from llcert.certificate_writer.tree import Tree
from llcert.certification import KeptProof, ObjectiveEvidence


@dataclass(frozen=True)
class ImageEvidence:
    """The evidence of one image.

    reference: the class that is compared with others. margin: a lower bound, above 0, of the margin of the claim.
    arrays: of its file, by name.
    """

    reference: int
    margin: float
    arrays: Arrays


def evidence_of(graph: CertificateGraph, proofs: Iterable[KeptProof]) -> dict[int, ImageEvidence]:
    """The evidence of every image with a proof, by its index in the data set; from the first proof where it has
    several.

    graph: of the network that was proved.
    """
    found: dict[int, ImageEvidence] = {}
    for kept in proofs:
        for position, index in enumerate(kept.indices.tolist()):
            if index not in found:
                arrays = _arrays(graph, kept, position)
                found[index] = ImageEvidence(int(kept.references[position]), float(kept.margin[position]), arrays)
    return found


def evidence_json(evidence: Mapping[int, ImageEvidence]) -> tuple[list[dict[str, Any]], Arrays]:
    """The evidence of several images as a JSON value and one collection of arrays, with the names `index/name`."""
    entries = [{"index": i, "reference": one.reference, "margin": one.margin} for i, one in evidence.items()]
    arrays = {f"{i}/{name}": values for i, one in evidence.items() for name, values in one.arrays.items()}
    return entries, arrays


def evidence_from(entries: Sequence[Mapping[str, Any]], file: Path) -> dict[int, ImageEvidence]:
    """The inverse of `evidence_json`. file: an npz file with the arrays. Raises ValueError where it is damaged or
    missing."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays: dict[int, Arrays] = {int(entry["index"]): {} for entry in entries}
            for name in stored.files:
                index, _, own = name.partition("/")
                arrays[int(index)][own] = stored[name]
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(str(error)) from error
    return {
        int(entry["index"]): ImageEvidence(entry["reference"], entry["margin"], arrays[int(entry["index"])])
        for entry in entries
    }


def _arrays(graph: CertificateGraph, kept: KeptProof, i: int) -> Arrays:
    """All arrays of image number i of a proof."""
    regions, program = kept.proof.regions, graph.program
    arrays: Arrays = {"x": flat_array(regions.trace.post_activation[program.input].region.centre[i])}
    for block in program.blocks:
        k = graph.numbers[block.node]
        arrays[f"{k}.centre"] = flat_array(regions.trace.pre_activation[block.node].centre[i])
        arrays |= region_arrays(graph, regions.trace, block, i)
    arrays |= intermediate_arrays(graph, regions, i)
    for (image, j), objective in kept.proof.objectives.items():
        if image == i:
            arrays |= _objective(graph, objective, j)
    return arrays


def _objective(graph: CertificateGraph, objective: ObjectiveEvidence, j: int) -> Arrays:
    """The arrays of class j for rules 7 and 12: where its row stops, and the relaxations in every part of the ball."""
    arrays: Arrays = {f"{j}.stop": np.array(graph.numbers[objective.stop], np.int64)}
    order = [0]
    if objective.splits:
        tree = Tree.of(objective.splits)
        arrays |= {f"{j}.{name}": values for name, values in tree.arrays(graph).items()}
        order = tree.order
    for (block, step), choice in objective.choices.items():
        k = graph.numbers[graph.program.blocks[block].node]
        arrays[f"{j}.{k}.slopes.{step}"] = flat_array(choice.slopes[order])
        arrays[f"{j}.{k}.lam.{step}"] = flat_array(choice.lam[order])
    return arrays | {f"{j}.end.{graph.numbers[n]}": flat_array(lam[order]) for n, lam in objective.ends.items()}
