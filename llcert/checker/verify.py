"""Verifies certificates: for every image, all rules of docs/certificate.md, section 5.

The evidence is checked in the order of the rules: regions of all values (`forward`), then the margin of every class
that the claim needs (`margins`). The first rule that does not hold rejects the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llcert.checker import files
from llcert.checker.certificate import Certificate, Image, open_certificate
from llcert.checker.files import InvalidCertificate, Rejected, require
from llcert.checker.forward import propagate
from llcert.checker.graph import Graph, build
from llcert.checker.margins import margin

_QUIET = np.errstate(all="ignore")
"""NaN and infinity need no warning: they fail every comparison, and a comparison that fails rejects."""


@dataclass(frozen=True)
class Result:
    """The verdict on an image.

    reason: the first rule that does not hold; empty where it is accepted. margin: a lower bound of the least margin
    that the claim needs; NaN where the image is rejected.
    """

    image: Image
    accepted: bool
    reason: str = ""
    margin: float = math.nan


def check(folder: str | Path) -> Iterator[Result]:
    """The verdict on every image, in the order of certificate.json; InvalidCertificate where that cannot be read."""
    return results(open_certificate(folder))


def results(certificate: Certificate) -> Iterator[Result]:
    """The verdict on every image. If a file of the network is rejected, every image is."""
    try:
        graph = _network(certificate)
    except Rejected as failure:
        yield from (Result(image, False, str(failure)) for image in certificate.images)
        return
    seen = set[object]()
    for image in certificate.images:
        again = bool(seen & {image.index, image.file})
        seen |= {image.index, image.file}
        try:
            require(not again, "certificate.json lists it twice")
            result = Result(image, True, margin=_margin(certificate, graph, image))
        except InvalidCertificate as failure:
            result = Result(image, False, f"image {image.index}: {failure}")
        yield result


@_QUIET
def _network(certificate: Certificate) -> Graph:
    """The network of graph.json and model.npz, whose hashes must be those of certificate.json."""
    graph_json, model = "graph.json", "model.npz"
    content = files.read_checked(certificate.folder, graph_json, certificate.hashes)
    arrays = files.parse_npz(model, files.read_checked(certificate.folder, model, certificate.hashes))
    return build(files.parse_json(graph_json, content, newest=2), arrays)


@_QUIET
def _margin(certificate: Certificate, graph: Graph, image: Image) -> float:
    """A lower bound, above 0, of all margins that the claim needs. Raises Rejected at the first rule that does not
    hold.

    A claim on the K largest logits may do without K - 1 classes: those of which the evidence has no row are left out,
    up to this number.
    """
    logits = graph.nodes[-1].size
    others = [*certificate.claim.others(image.reference, graph.classes, logits)]
    arrays = files.parse_npz(image.file, files.read_checked(certificate.folder, image.file, certificate.hashes))
    known = propagate(graph, arrays, image.eps, within=certificate.claim.within, run=certificate.deployed)
    spared, found = certificate.claim.top - 1, list[float]()
    for other, sparable in others:
        if sparable and spared and f"{other}.stop" not in arrays:
            spared -= 1
            continue
        found.append(margin(graph, arrays, known, label=image.reference, other=other))
        require(0 < found[-1] < math.inf, f"rule 7 (row), class {other}: margin {found[-1]:.6g} is not above 0")
    return min(found)
