"""The folder of a certificate (docs/certificate.md, section 1), written so that it is valid at any moment.

certificate.json lists the other files by their hashes and is replaced as a whole, after the files that it lists. A run
that is interrupted leaves a certificate of the images up to its last `commit`, and `--resume` goes on from there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llcert.certificate_writer.graph import CertificateGraph
from llcert.certificate_writer.image import ImageEvidence
from llcert.certification import FIRST, Radii, Specification, claim_json
from llcert.domain.pixel_range import PixelRange
from llcert.errors import InvalidInput
from llcert.machine.files import dump, is_vacant, part_of, write_atomically

CERTIFICATE, GRAPH, MODEL, IMAGES = "certificate.json", "graph.json", "model.npz", "images"
FORMAT = 3
_IMAGE = re.compile(r"[0-9]+\.npz")
_PLAIN = re.compile(r"([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?|[0-9]{1,40}/0*[1-9][0-9]{0,39}")


@dataclass
class Folder:
    """A certificate that is being written: made by `open_folder`, then `begin`, `add` for every image, and `commit`.

    stored: the certificate.json of an interrupted run that is continued; None for a new certificate.
    """

    path: Path
    stored: Mapping[str, Any] | None = None
    _specification: Specification = FIRST
    _radii: Radii | None = None
    _head: dict[str, Any] = field(default_factory=dict)
    _hashes: dict[str, str] = field(default_factory=dict)
    _images: dict[int, dict[str, Any]] = field(default_factory=dict)

    def begin(
        self,
        graph: CertificateGraph,
        *,
        eps: str | Radii,
        semantics: str,
        about: Mapping[str, Any],
        specification: Specification = FIRST,
        within: PixelRange | None = None,
    ) -> None:
        """Writes the network and a certificate of no image, or of those that an interrupted run has written.

        eps: the radius as the user wrote it, or one for each image. about: the keys `model`, `source`,
        `llcert` and `settings` of certificate.json. within: the range of pixels that the claim is restricted to.
        Raises InvalidInput where the interrupted run had another network, radius or claim.
        """
        self._specification = specification
        if isinstance(eps, Radii):
            self._radii = replace(eps, texts=tuple(exact(text) for text in eps.texts))
        common = None if isinstance(eps, Radii) else exact(eps)
        self._head = {
            "format": FORMAT,
            "claim": claim_json(specification, within),
            "eps": common,
            "semantics": semantics,
            **about,
        }
        described, model = dump(graph.graph_json()).encode(), packed(graph.arrays)
        network = {GRAPH: described, MODEL: model}
        hashes = {name: _sha256(content) for name, content in network.items()}
        if self.stored is not None:
            self._continue(self.stored, hashes)
        (self.path / IMAGES).mkdir(parents=True, exist_ok=True)
        self.commit()  # the folder is ours from here on, whatever ends this process
        if not hashes.items() <= self._hashes.items():
            for name, content in network.items():
                (self.path / name).write_bytes(content)
            self._hashes |= hashes
            self.commit()

    def _continue(self, stored: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
        """Takes over the images of an interrupted run. Raises InvalidInput where it asked something else."""
        for name in ("claim", "eps", "semantics", "model", "source"):
            if stored.get(name) != json.loads(json.dumps(self._head[name])):
                raise InvalidInput(f"--proof {self.path}: holds another {name}; use --overwrite or another folder")
        if any(stored["files"].get(name, value) != value for name, value in hashes.items()):
            raise InvalidInput(f"--proof {self.path}: holds another network; use --overwrite or another folder")
        self._hashes = dict(stored["files"])
        self._images = {entry["index"]: entry for entry in stored["images"]}
        if any(entry.get("eps") != self._eps(index).get("eps") for index, entry in self._images.items()):
            raise InvalidInput(f"--proof {self.path}: holds other radii; use --overwrite or another folder")

    def holds(self, index: int) -> bool:
        """Whether the certificate has evidence for the image with this index in the data set."""
        return index in self._images

    def add(self, index: int, evidence: ImageEvidence) -> None:
        """Writes the evidence of an image, unless there is some already; it counts from the next `commit` on."""
        if index in self._images:
            return
        name = f"{IMAGES}/{index}.npz"
        content = packed(evidence.arrays)
        (self.path / name).write_bytes(content)
        self._hashes[name] = _sha256(content)
        known = {"index": index, self._specification.role: evidence.reference, **self._eps(index)}
        self._images[index] = {**known, "file": name, "margin": evidence.margin}

    def _eps(self, index: int) -> dict[str, str]:
        """The key `eps` of the entry of an image; none where all images have the same radius."""
        return {} if self._radii is None else {"eps": self._radii.texts[self._radii.place(index)]}

    def commit(self) -> None:
        """Replaces certificate.json by one that lists everything written so far."""
        images = [self._images[i] for i in sorted(self._images)]
        content = {**self._head, "files": dict(sorted(self._hashes.items())), "images": images}
        write_atomically(self.path / CERTIFICATE, dump(content, indent=1))


def open_folder(path: Path, *, resume: bool, overwrite: bool) -> Folder:
    """The folder of a certificate. Raises InvalidInput where there is something that may not be replaced.

    resume: whether a certificate that lies there is continued. overwrite: whether it is deleted.
    """
    if is_vacant(path, "--proof", resume=resume, overwrite=overwrite, marker=CERTIFICATE):
        return Folder(path)
    begun = (path / CERTIFICATE).is_file()
    if not begun and not _debris(path):
        raise InvalidInput(f"--proof {path}: holds no certificate of llcert, but other files; choose another folder")
    if resume:
        stored = _stored(path / CERTIFICATE) if begun else None
        return Folder(path, stored if stored and stored["files"] else None)
    _clear(path)
    return Folder(path)


def _clear(path: Path) -> None:
    """Deletes a certificate. It lists no image from the first moment on, and certificate.json, by which the folder is
    known to be one of ours, goes last."""
    write_atomically(path / CERTIFICATE, dump({"format": FORMAT, "files": {}, "images": []}))
    images = [image for image in _within(path / IMAGES) if _IMAGE.fullmatch(image.name)]
    for file in (*images, *(path / name for name in (GRAPH, MODEL, CERTIFICATE))):
        file.unlink(missing_ok=True)


def _within(folder: Path) -> list[Path]:
    """The content of a folder; nothing where it is a symbolic link, which may lead to files that are not ours."""
    return [*folder.iterdir()] if folder.is_dir() and not folder.is_symlink() else []


def _debris(path: Path) -> bool:
    """Whether a folder without certificate.json holds nothing but files that an interrupted run may have left."""
    known = {GRAPH, MODEL, IMAGES, part_of(path / CERTIFICATE).name}
    images = all(_IMAGE.fullmatch(image.name) for image in _within(path / IMAGES))
    return images and all(inside.name in known for inside in path.iterdir())


def _stored(path: Path) -> Mapping[str, Any]:
    """The certificate.json of an interrupted run. Raises InvalidInput where it cannot be continued."""
    try:
        found = json.loads(path.read_bytes())
        if found["format"] not in range(1, FORMAT + 1) or not isinstance(found["files"], dict):
            raise ValueError("another format")
        for entry in found["images"]:
            int(entry["index"])
    except (ValueError, KeyError, TypeError, OSError):
        raise InvalidInput(f"--proof {path}: no certificate that can be continued; use --overwrite") from None
    return dict(found)


def exact(eps: str) -> str:
    """The radius in a form that the checker reads: the user's text, or else an equal fraction.

    Raises InvalidInput for numbers of more digits than the checker takes.
    """
    text = eps.strip()
    if _PLAIN.fullmatch(text):
        return text
    try:
        above, _, below = text.partition("/")
        value = str(Fraction(above.strip()) / Fraction(below.strip() or 1))
    except (ValueError, ZeroDivisionError):
        value = ""
    if not _PLAIN.fullmatch(value):
        raise InvalidInput(f"--proof: eps {eps[:40]!r} is too long a number for a certificate")
    return value


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an npz file with these arrays; float64 numbers that float32 holds exactly are stored as float32."""
    out = io.BytesIO()
    short: dict[str, Any] = {name: _short(np.asarray(values)) for name, values in arrays.items()}
    np.savez_compressed(out, **short)
    return out.getvalue()


def _short(values: NDArray[Any]) -> NDArray[Any]:
    """The array in float32 where that holds all of its numbers exactly."""
    if values.dtype != np.float64:
        return values
    with np.errstate(over="ignore"):
        short = values.astype(np.float32)
    return short if np.array_equal(short.astype(np.float64), values) else values


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
