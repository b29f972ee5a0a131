"""The figures of a model's card: accuracy, certificates by estimate and by proof, and the curve over radii.

    python benchmarks/card.py models/NAME.onnx [--data-root ../shared/data] [--work runs/card] [--first 1000]

Radius and data are those of the model's metadata. On the whole test set: the paper's attack with 100 steps and 5 random
starts, certificates by the global bound as an estimate, and the same at other radii. On the first images: the default
stages as an estimate, as a proof in real numbers, and as a proof of every deployed evaluation. Prints the tables of a
card. Each part is one `llcert certify`; what was interrupted goes on, what is finished is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from comparison import llcert

from llcert.frontend.load import load

RADII = (Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2), Fraction(3))
"""Of the curve, in units of the model's own."""

WHOLE = "--stages global,attack --attack paper --attack-restarts 5 --assurance estimate"
FIRST: Mapping[str, str] = {
    "certified, an estimate": "--assurance estimate",
    "proved in real numbers": "--semantics real",
    "proved for every deployed evaluation": "",
}
"""Options of the parts about the first images, by the name of a row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/card"))
    parser.add_argument("--first", type=int, default=1000)
    arguments = parser.parse_args()
    parts = Parts(arguments.model, arguments.data_root, arguments.work / arguments.model.stem)
    parts.work.mkdir(parents=True, exist_ok=True)
    for line in itertools.chain(whole(parts), [""], curve(parts), [""], first(parts, arguments.first)):
        print(line, flush=True)


class Parts:
    """The certifications of one model, each in a folder of its own."""

    def __init__(self, model: Path, root: Path, work: Path) -> None:
        self.model, self.root, self.work = model, root, work

    def summary(self, name: str, options: str) -> dict[str, Any]:
        """The summary of one part, which is found now, or was before."""
        out = self.work / name
        if not (out / "summary.json").exists():
            going_on = ["--resume"] if (out / "run.json").exists() else []
            words = ("certify", str(self.model), *options.split(), "--data-root", str(self.root), "--out", str(out))
            llcert(*words, *going_on, log=self.work / f"{name}.log")
        found: dict[str, Any] = json.loads((out / "summary.json").read_text())
        return found


def whole(parts: Parts) -> Iterator[str]:
    """The table of the whole test set."""
    found = parts.summary("whole", WHOLE)
    yield f"On the {found['samples']:,} test images, at the L2 radius {found['eps_text']} in pixel units:"
    yield ""
    yield "| accuracy | % |"
    yield "|---|---|"
    yield f"| clean | {percent(found['clean_accuracy'])} |"
    yield f"| PGD (paper) | {percent(found['attacked_accuracy'])} |"
    yield f"| certified, global | {percent(found['certified_accuracy'])} |"


def curve(parts: Parts) -> Iterator[str]:
    """The table of certified accuracy over radii, by the global bound, an estimate."""
    eps = Fraction(load(parts.model).metadata["eps"])
    found = {
        k: parts.summary(f"radius-{float(k):g}", f"--stages global --assurance estimate --eps {k * eps}") for k in RADII
    }
    yield f"| radius | {' | '.join(f'{float(k * eps):.3g}' for k in RADII)} |"
    yield "|---" * (len(RADII) + 1) + "|"
    yield f"| certified, global | {' | '.join(percent(f['certified_accuracy']) for f in found.values())} |"


def first(parts: Parts, count: int) -> Iterator[str]:
    """The table of the first images, by the default stages."""
    yield f"On the first {count:,} of them, by all stages but `branch`:"
    yield ""
    yield "| accuracy | % | minutes |"
    yield "|---|---|---|"
    for name, options in FIRST.items():
        found = parts.summary(name.replace(",", "").replace(" ", "-"), f"--samples {count} {options}")
        if name == next(iter(FIRST)):
            yield f"| clean | {percent(found['clean_accuracy'])} | |"
            yield f"| attack | {percent(found['attacked_accuracy'])} | |"
        minutes = sum(stage["seconds"] for stage in found["stages"]) / 60
        yield f"| {name} | {percent(found['certified_accuracy'])} | {minutes:.0f} |"


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


if __name__ == "__main__":
    main()
