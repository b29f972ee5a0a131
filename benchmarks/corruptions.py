"""Random corruptions of a certificate, none of which `llcert check` may accept: prints how many it rejects.

    llcert certify models/digits_maxmin_clipped.onnx --samples 200 --proof proof
    python benchmarks/corruptions.py proof --count 1000

Half of the corrupted files get their true hashes, so that the mathematics has to reject them. A corruption is only
made where it takes away something the proof needs: norms, radii and boxes that are smaller than what is reached, chords
that are too small, another label, a false claim, weights that are not those of the evidence, a larger eps.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from llcert.checker import check

Arrays = dict[str, Any]
Change = Callable[[np.random.Generator, Arrays], bool]
"""Edits the arrays of a file; False where there is nothing of the kind to take away."""

_REGION = re.compile(r"(first\.)?\d+\.(centre|lower|upper|weights|radius|after)")
_BOXES = 0.98  # rows that narrow a box leave up to a hundredth of it as room
_RADII = 0.99
_NORMS = 0.5  # a norm may be the whole layer's, of which masks leave less


def chosen(rng: np.random.Generator, arrays: Arrays, *kinds: str) -> str | None:
    """An array of these kinds, of the regions of any block, first ones included."""
    names = [n for n in arrays if _REGION.fullmatch(n) and n.rpartition(".")[2] in kinds and np.any(arrays[n])]
    return names[rng.integers(len(names))] if names else None


def centre_of(arrays: Arrays, name: str) -> Any:
    """The centre of the block that an array speaks of."""
    return arrays[f"{name.removeprefix('first.').split('.')[0]}.centre"].astype(float)


def smaller_norm(rng: np.random.Generator, arrays: Arrays) -> bool:
    """Of a norm that is above 0; the joint one, where it is the one that counts, with it."""
    names = [n for n in arrays if ".norm." in n and float(arrays[n]) > 0]
    if not names:
        return False
    block = names[rng.integers(len(names))].split(".norm.")[0]
    for name in arrays:
        if name.startswith((f"{block}.norm.", f"{block}.joint")):
            arrays[name] = arrays[name] * _NORMS
    return True


def smaller_radius(rng: np.random.Generator, arrays: Arrays) -> bool:
    name = chosen(rng, arrays, "radius")
    if name is None:
        return False
    arrays[name] = arrays[name] * _RADII
    return True


def smaller_after(rng: np.random.Generator, arrays: Arrays) -> bool:
    name = chosen(rng, arrays, "after")
    if name is None:
        return False
    arrays[name] = arrays[name] * _RADII
    return True


def smaller_box(rng: np.random.Generator, arrays: Arrays) -> bool:
    """One end of one entry, nearer to the centre."""
    name = chosen(rng, arrays, "lower", "upper")
    if name is None:
        return False
    centre, ends = centre_of(arrays, name), arrays[name].astype(float)
    (wide,) = np.nonzero(np.abs(ends - centre) > 1e-6)
    if not wide.size:
        return False
    i = wide[rng.integers(wide.size)]
    ends[i] = centre[i] + (ends[i] - centre[i]) * _BOXES
    arrays[name] = ends
    return True


def lost_weight(rng: np.random.Generator, arrays: Arrays) -> bool:
    """Of an entry that has one; between 0 and 1 a weight may be larger than its chord."""
    name = chosen(rng, arrays, "weights")
    if name is None:
        return False
    weights = arrays[name].astype(float)
    (held,) = np.nonzero(weights)
    if not held.size:
        return False
    weights[held[rng.integers(held.size)]] = 0
    arrays[name] = weights
    return True


def moved_centre(rng: np.random.Generator, arrays: Arrays) -> bool:
    """All of a block's, by more than its radius has room for."""
    name = chosen(rng, arrays, "centre")
    if name is None:
        return False
    k = name.split(".")[0]
    width = arrays[f"{k}.upper"].astype(float) - arrays[f"{k}.lower"].astype(float)
    arrays[name] = arrays[name] + rng.choice([-0.4, 0.4], width.shape) * width
    return bool(np.any(width > 1e-6))


def moved_image(rng: np.random.Generator, arrays: Arrays) -> bool:
    noise = rng.normal(size=arrays["x"].shape)
    arrays["x"] = arrays["x"] + noise / np.linalg.norm(noise) * 0.05
    return True


def missing(rng: np.random.Generator, arrays: Arrays) -> bool:
    """Without something that is always needed: a bound of some kind, or the row of any class."""
    names = [n for n in arrays if n.endswith((".centre", ".lower", ".upper", ".weights", ".radius", ".after", ".stop"))]
    chosen = names[rng.integers(len(names))]
    for name in [n for n in names if n.endswith(".stop")] if chosen.endswith(".stop") else [chosen]:
        del arrays[name]
    return True


def not_a_number(rng: np.random.Generator, arrays: Arrays) -> bool:
    name = chosen(rng, arrays, "centre", "lower", "upper", "weights", "radius", "after")
    assert name is not None
    values = np.array(arrays[name], dtype=float)
    values.reshape(-1)[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf])
    arrays[name] = values
    return True


def without_rows(rng: np.random.Generator, arrays: Arrays) -> bool:
    """A box that was narrowed by rows, without them."""
    names = [n for n in arrays if n.endswith(".rows")]
    if names:
        del arrays[names[rng.integers(len(names))]]
    return bool(names)


def lost_part(rng: np.random.Generator, arrays: Arrays) -> bool:
    """A tree without its last part, or with a split that is said to be a part."""
    names = [n for n in arrays if n.endswith(".tree")]
    if not names:
        return False
    name = names[rng.integers(len(names))]
    tree = np.array(arrays[name])
    if rng.random() < 0.5:
        tree = tree[:-1]
    else:
        tree[rng.choice(np.flatnonzero(tree >= 0))] = -1
    arrays[name] = tree
    return True


EVIDENCE: dict[str, Change] = {
    "norm": smaller_norm,
    "radius": smaller_radius,
    "after": smaller_after,
    "box": smaller_box,
    "chord": lost_weight,
    "centre": moved_centre,
    "image": moved_image,
    "missing": missing,
    "not a number": not_a_number,
    "rows": without_rows,
    "part": lost_part,
}


def role(entry: dict[str, Any]) -> str:
    """What the entry calls the class that is compared with others."""
    return "label" if "label" in entry else "reference"


def false_label(claim: dict[str, Any], entry: dict[str, Any], logits: Any) -> bool:
    """The class with the least logit: it is not among the largest, nor above one that is never the answer.

    logits: at the image. Any other class but the label itself may be among the K largest.
    """
    least = int(np.argmin(logits))
    entry[role(entry)], before = least, entry[role(entry)]
    return least not in (before, claim.get("never"))


def other_claim(certificate: dict[str, Any], entry: dict[str, Any], classes: int) -> None:
    """That the network never gives its answer at the image."""
    answer = entry.pop(role(entry))
    entry["reference"] = certificate["claim"].get("never", (answer + 1) % classes)
    certificate["claim"] = {"never": answer}


def larger_eps(certificate: dict[str, Any], entry: dict[str, Any]) -> None:
    """By one percent, of all images or of this one."""
    where = certificate if certificate["eps"] is not None else entry
    where["eps"] = str(Fraction(where["eps"]) * 101 / 100)


def other_weights(rng: np.random.Generator, arrays: Arrays) -> None:
    """A matrix of the network, or an offset, by one percent."""
    names = [n for n in arrays if n.endswith((".data", ".offset")) and np.any(arrays[n])]
    name = names[rng.integers(len(names))]
    arrays[name] = arrays[name] * 1.01
    offset = name.removesuffix("offset") + "magnitude"
    if name.endswith(".offset"):
        arrays[offset] = arrays[offset] * 1.02


KINDS = (*EVIDENCE, "label", "claim", "eps", "network")


def corrupted(kind: str, rng: np.random.Generator, source: Path, target: Path, *, hashed: bool) -> bool:
    """Copies the certificate of one image with one thing changed; False where there is nothing of the kind.

    hashed: puts the hashes right again.
    """
    certificate = json.loads((source / "certificate.json").read_text())
    entry = dict(certificate["images"][rng.integers(len(certificate["images"]))])
    (target / "images").mkdir(parents=True)
    changed = entry["file"]
    classes = json.loads((source / "graph.json").read_text())["classes"]
    for name in ("graph.json", "model.npz", entry["file"]):
        shutil.copy(source / name, target / name)
    if kind in EVIDENCE:
        arrays = dict(np.load(target / changed))
        if not EVIDENCE[kind](rng, arrays):
            return False
        (target / changed).write_bytes(archive(arrays))
    elif kind == "network":
        changed = "model.npz"
        arrays = dict(np.load(target / changed))
        other_weights(rng, arrays)
        (target / changed).write_bytes(archive(arrays))
    elif kind == "label":
        last = len(json.loads((source / "graph.json").read_text())["nodes"]) - 1
        logits = np.load(target / changed)[f"{last}.centre"]
        if not false_label(certificate["claim"], entry, logits[:classes]):
            return False
    elif kind == "claim":
        other_claim(certificate, entry, classes)
    else:
        larger_eps(certificate, entry)
    if hashed:
        certificate["files"][changed] = hashlib.sha256((target / changed).read_bytes()).hexdigest()
    certificate["images"] = [entry]
    (target / "certificate.json").write_text(json.dumps(certificate))
    return True


def archive(arrays: Arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def campaign(source: Path, count: int, seed: int) -> tuple[Counter[tuple[str, bool]], list[str]]:
    """How often each kind was rejected, and a line for every one that was accepted."""
    rng, rejected, accepted = np.random.default_rng(seed), Counter[tuple[str, bool]](), list[str]()
    number, tried = 0, 0
    while number < count and tried < 20 * count:
        kind, hashed = KINDS[tried // 2 % len(KINDS)], tried % 2 == 0
        tried += 1
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "proof"
            if not corrupted(kind, rng, source, folder, hashed=hashed):
                continue
            number += 1
            (result,) = check(folder)
            if result.accepted:
                accepted.append(f"{kind}, hashed {hashed}: image {result.image.index}, margin {result.margin:.6g}")
            else:
                rejected[kind, hashed] += 1
    return rejected, accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rejected, accepted = campaign(asked.folder, asked.count, asked.seed)
    for kind in KINDS:
        print(f"{kind:14} rejected {rejected[kind, True]:4} with true hashes, {rejected[kind, False]:4} without")
    print(f"{sum(rejected.values())} of {asked.count} rejected")
    for line in accepted:
        print(f"accepted: {line}")


if __name__ == "__main__":
    main()
