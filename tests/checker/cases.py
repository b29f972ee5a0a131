"""Certificates of small networks: their folders, and what an attack finds."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from llcert.checker import Result, check
from llcert.checker.files import InvalidCertificate

from .generator import Evidence, certify
from .networks import Array, Toy, graph_json, model_arrays, random_toy


def write(
    folder: Path,
    toy: Toy,
    eps: Fraction,
    images: list[tuple[int, Evidence]],
    semantics: str = "real",
    version: int = 1,
) -> Path:
    """A folder with a certificate of some images, of which each has a label."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps(graph_json(toy)))
    np.savez(folder / "model.npz", **model_arrays(toy))
    entries = []
    for i, (label, found) in enumerate(images):
        np.savez(folder / "images" / f"{i}.npz", **found.arrays)
        margin = min(found.margins.values(), default=0.0)
        entries.append({"index": i, "label": label, "file": f"images/{i}.npz", "margin": margin})
    certificate = {"format": version, "eps": str(eps), "semantics": semantics, "files": {}, "images": entries}
    (folder / "certificate.json").write_text(json.dumps(certificate | {"model": {"name": "toy", "sha256": "0"}}))
    return rehash(folder)


def rehash(folder: Path) -> Path:
    """Puts the true hashes into certificate.json."""
    path = folder / "certificate.json"
    certificate = json.loads(path.read_text())
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != path]
    certificate["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    path.write_text(json.dumps(certificate))
    return folder


def worst_margin(toy: Toy, x: Array, label: int, eps: float, rng: np.random.Generator, tries: int = 1500) -> float:
    """The least margin found in the ball: random points, then a random search around the worst."""
    others = [j for j in range(toy.nodes[-1]["size"]) if j != label]

    def margins(d: Array) -> Array:
        y = toy.evaluate(x + d)
        return (y[:, [label]] - y[:, others]).min(1)

    d = rng.normal(size=(tries, x.size))
    d *= eps / np.linalg.norm(d, axis=1, keepdims=True)
    d[::4] *= rng.random((len(d[::4]), 1))
    lowest = np.inf
    for scale in (1.0, 0.5, 0.2, 0.05, 0.01):
        found = margins(d)
        lowest = min(lowest, float(found.min()))
        best = d[np.argsort(found)[:10]].repeat(30, 0)
        d = best + rng.normal(size=best.shape) * scale * eps / np.sqrt(x.size)
        d *= np.minimum(1, eps * (1 - 1e-12) / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-300))
    return lowest


@dataclass(frozen=True)
class Case:
    """A network, an image, and a radius at which the evidence has a positive margin, or has not."""

    toy: Toy
    x: Array
    label: int
    eps: Fraction
    found: Evidence

    @property
    def proved(self) -> bool:
        return min(self.found.margins.values()) > 1e-6


@functools.cache
def random_case(seed: int, *, margin: bool = False, single: bool = False) -> Case:
    """margin: at the largest radius of a few with a positive margin."""
    rng = np.random.default_rng(seed)
    while True:
        toy = random_toy(rng)
        x = rng.normal(size=toy.nodes[0]["size"])
        y = toy.evaluate(x[None])[0]
        label = int(np.argmax(y))
        if label >= toy.classes:
            continue
        for eps in (Fraction(k, 64) for k in ((40, 20, 10, 5, 2, 1) if margin else [int(rng.choice([1, 4, 12, 40]))])):
            case = Case(toy, x, label, eps, certify(toy, x, label, float(eps), rng, single=single))
            if case.proved or not margin:
                return case


def only(folder: Path) -> Result:
    """The verdict on the only image of a certificate."""
    (result,) = check(folder)
    return result


def written(case: Case, folder: Path, semantics: str = "real") -> Path:
    """The folder of the certificate of a case."""
    return write(folder, case.toy, case.eps, [(case.label, case.found)], semantics)


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edits the arrays of an npz file, or the object of a JSON file, and puts the hashes right again."""
    path = folder / name
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
    else:
        with np.load(path) as held:
            arrays = dict(held)
        edit(arrays)
        np.savez(path, **arrays)
    rehash(folder)


def complaint(folder: Path) -> str:
    """The one line that says what is wrong: an error, or why the image is rejected."""
    try:
        (result,) = check(folder)
    except InvalidCertificate as error:
        line = str(error)
    else:
        assert not result.accepted
        line = result.reason
    assert line
    assert len(line.splitlines()) == 1
    assert len(line) < 200
    return line


def put(name: str, edit: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: np.asarray(edit(arrays[name]))})


def at(i: int, to: Any) -> Callable[[np.ndarray], np.ndarray]:
    def edit(v: np.ndarray) -> np.ndarray:
        v = v.copy()
        v[i] = to
        return v

    return edit
