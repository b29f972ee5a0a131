"""Checks certificates, trusting nothing that found them: numpy and scipy in float64, every rounding paid for.

docs/certificate.md defines the files and the numbered rules. This package imports nothing of llcert but its errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llcert.checker import files
from llcert.checker.claim import Claim, parse
from llcert.checker.files import Rejected, require, valid
from llcert.checker.forward import propagate
from llcert.checker.graph import Graph, build
from llcert.checker.numbers import number, rounded_up
from llcert.checker.parts import margin
from llcert.errors import InvalidInput

_QUIET = np.errstate(all="ignore")  # NaN and infinity lose every comparison
_IMAGE = re.compile(r"images/[0-9]{1,12}\.npz")


@dataclass(frozen=True)
class Image:
    """An entry of certificate.json. reference: the class that others are compared with. eps: rounded up."""

    index: int
    reference: int
    file: str
    eps: float


@dataclass(frozen=True)
class Result:
    """Whether the claim of an image is proved, and if not, by which step.

    margin: a lower bound of the least margin that the claim needs; NaN where the image is rejected.
    """

    image: Image
    accepted: bool
    reason: str = ""
    margin: float = math.nan


@dataclass(frozen=True)
class Certificate:
    """What certificate.json says. stated: the claim in words, with the numbers as they are written. eps: the radius,
    rounded up; None where each image has its own. deployed: of evaluations in the formats of the values."""

    folder: Path
    stated: str
    claim: Claim
    eps: float | None
    deployed: bool
    hashes: Mapping[str, Any]
    images: tuple[Image, ...]


def check(folder: str | Path) -> Iterator[Result]:
    """One result an image, in the order of certificate.json. Raises InvalidInput where there is nothing to check."""
    return results(open_certificate(folder))


def open_certificate(folder: str | Path) -> Certificate:
    """What certificate.json says, checked for form only. Raises InvalidInput where it cannot be read."""
    name = "certificate.json"
    found = files.parse_json(name, files.read(Path(folder), name), newest=3)
    eps, semantics, hashes, images = (found.get(key) for key in ("eps", "semantics", "files", "images"))
    common = None if eps is None and "eps" in found else _radius(eps)
    claim = parse(found["claim"]) if "claim" in found else Claim()
    valid(semantics in ("real", "float32"), f"{name}: semantics: neither real nor float32")
    valid(isinstance(hashes, dict) and isinstance(images, list), f"{name}: files or images: missing")
    radius = "an eps for each image" if common is None else f"eps {eps}"
    return Certificate(
        Path(folder),
        f"{claim.words}, {radius}, semantics {semantics}{claim.limit}",
        claim,
        common,
        semantics == "float32",
        hashes or {},
        tuple(_image(i, claim, common) for i in images or []),
    )


def _radius(text: object) -> float:
    """The number, rounded up."""
    found = number(text)
    if found is None:
        raise InvalidInput("certificate.json: eps: no fraction or decimal")
    return rounded_up(found)


def _image(entry: Any, claim: Claim, common: float | None) -> Image:
    right = (
        isinstance(entry, dict)
        and all(type(entry.get(key)) is int and entry[key] >= 0 for key in ("index", claim.role))
        and isinstance(entry.get("file"), str)
        and _IMAGE.fullmatch(entry["file"])
    )
    valid(right, f"certificate.json: images: an entry is not {{index, {claim.role}, file: images/N.npz}}")
    valid(common is None or "eps" not in entry, "certificate.json: images: an entry has an eps of its own")
    eps = _radius(entry.get("eps")) if common is None else common
    return Image(entry["index"], entry[claim.role], entry["file"], eps)


def results(certificate: Certificate) -> Iterator[Result]:
    """One result an image. Where a file of the network is rejected, every image is."""
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
        except InvalidInput as failure:
            result = Result(image, False, f"image {image.index}: {failure}")
        yield result


@_QUIET
def _network(certificate: Certificate) -> Graph:
    graph_json, model = "graph.json", "model.npz"
    content = files.read_checked(certificate.folder, graph_json, certificate.hashes)
    arrays = files.parse_npz(model, files.read_checked(certificate.folder, model, certificate.hashes))
    return build(files.parse_json(graph_json, content, newest=2), arrays)


@_QUIET
def _margin(certificate: Certificate, graph: Graph, image: Image) -> float:
    """The least margin of a row, > 0. Raises Rejected at the first step that does not hold.

    Classes without a row are spared, as many as the claim allows.
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
