"""certificate.json: the claim, the radius, the images and the hashes of a certificate (docs/certificate.md, 1.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llcert.checker import files
from llcert.checker.claim import Claim, parse
from llcert.checker.files import InvalidCertificate, valid
from llcert.checker.numbers import number, rounded_up

_IMAGE = re.compile(r"images/[0-9]{1,12}\.npz")


@dataclass(frozen=True)
class Image:
    """An entry of the list of images.

    reference: the class whose logit is compared with others, the label for most claims. file: the name of its evidence.
    eps: the radius of its ball, rounded up.
    """

    index: int
    reference: int
    file: str
    eps: float


@dataclass(frozen=True)
class Certificate:
    """The content of certificate.json.

    in_words: the claim, its numbers as they are written. eps: the common radius, rounded up; None where every image has
    its own. deployed: whether the claim is also about floating-point evaluations of the network (rule 10). hashes: the
    SHA-256 of every other file, by name.
    """

    folder: Path
    in_words: str
    claim: Claim
    eps: float | None
    deployed: bool
    hashes: Mapping[str, Any]
    images: tuple[Image, ...]


def open_certificate(folder: str | Path) -> Certificate:
    """The content of certificate.json, whose form alone is checked. Raises InvalidCertificate for any other form."""
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
    """A radius that is written as text, rounded up. Raises InvalidCertificate for what is no number."""
    found = number(text)
    if found is None:
        raise InvalidCertificate("certificate.json: eps: no fraction or decimal")
    return rounded_up(found)


def _image(entry: Any, claim: Claim, common: float | None) -> Image:
    """An entry of the list of images. common: the radius of all images, None where each must have its own."""
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
