"""The paper's comparison of local and global training on CIFAR-10, in small: equal minutes, one network, one start.

    python benchmarks/comparison.py [--minutes 30] [--data-root ../shared/data] [--work runs/comparison] [NAME ...]

Every run is one `llcert train --recipe cifar10-6c2f-cpu` with another loss, from the same seed, on one thread, for as
many minutes of training; a run that was interrupted goes on, one that is finished is not done again, so that the runs
may be spread over days. Each network is certified by estimate: all 10,000 test images by the global bound, the first
ones by the local bound and by the default stages as well. Prints the table of docs/training.md, writes
results/comparison.json and draws Figures 2 to 4 of the paper into --figures, of all runs of so many minutes that are
finished.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from machine import facts

from llcert_train.metrics import read

RESULTS = Path(__file__).parent / "results" / "comparison.json"
LOCAL, CASCADE = 2000, 500
"""Test images that the local bound and the default stages are asked about, from the first on."""

_PAPER = "--precision float32 --overshoot 1.1 --average 0"
_LIPLT = "--loss emma --ball liplt --activation relu"
RUNS: Mapping[str, str] = MappingProxyType(
    {
        "GloRo": f"--loss gloro --activation relu {_PAPER}",
        "BCP": f"--loss bcp --activation relu {_PAPER}",
        "Local-Lip-G": f"--loss local-lip-g --activation relu-theta {_PAPER}",
        "Local-Lip-B": f"--loss local-lip-b --activation relu-theta {_PAPER}",
        "CRM, LipLT": "--loss crm --ball liplt --activation relu --overshoot 1",
        "EMMA, LipLT": _LIPLT,
        "EMMA, LipLT, last tenth local": f"{_LIPLT} --last-loss emma --last-share 0.1",
        "EMMA, LipLT, last tenth CROWN": f"{_LIPLT} --last-loss crown --last-share 0.1",
        "EMMA, product, MaxMin": "",
    }
)
"""Options over those of the recipe, by the name of a row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to train; all, if none is named")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(RUNS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; choose from {', '.join(RUNS)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or RUNS:
        out = folder_of(arguments.work, name, arguments.minutes)
        print(f"{name}: {out}.log", file=sys.stderr, flush=True)
        train(name, out, arguments.minutes, arguments.data_root)
        measured(out, arguments.data_root)
        print(table(finished(arguments.work, arguments.minutes, arguments.data_root)), flush=True)
    rows = finished(arguments.work, arguments.minutes, arguments.data_root)
    RESULTS.write_text(json.dumps({"machine": facts(), "minutes": arguments.minutes, "runs": rows}, indent=1) + "\n")
    llcert(
        "plot",
        *(str(folder_of(arguments.work, name, arguments.minutes)) for name in rows),
        "--labels",
        ",".join(name.replace(", ", " / ") for name in rows),
        "--out",
        str(arguments.figures),
        log=arguments.work / "plot.log",
    )


def folder_of(work: Path, name: str, minutes: float) -> Path:
    """The folder of a row's training run."""
    return work / f"{name.lower().replace(', ', '_').replace(' ', '-')}-{minutes:g}"


def finished(work: Path, minutes: float, root: Path) -> dict[str, Mapping[str, Any]]:
    """What every run reached that is trained and measured, by the name of its row."""
    folders = {name: folder_of(work, name, minutes) for name in RUNS}
    return {name: measured(out, root) for name, out in folders.items() if (out / "cascade" / "summary.json").exists()}


def llcert(*words: str, log: Path) -> None:
    """One command on one thread; what it prints goes to a file."""
    with log.open("ab") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "llcert", *words], env=environment, stdout=file, stderr=file, check=True)


def train(name: str, out: Path, minutes: float, root: Path) -> None:
    """One run, to its end. Does nothing where it is finished."""
    if (out / "model.md").exists():
        return
    options = (
        f"--recipe cifar10-6c2f-cpu --minutes {minutes} --stages global --assurance estimate --resume {RUNS[name]}"
    )
    llcert("train", *shlex.split(options), "--data-root", str(root), "--out", str(out), log=out.with_suffix(".log"))


def measured(out: Path, root: Path) -> dict[str, Any]:
    """What a finished run reached on the test images, in percent, and what it cost."""
    asked = (("global", "global", "0:10000"), ("local", "local", f"0:{LOCAL}"), ("cascade", None, f"0:{CASCADE}"))
    shares = {
        name: certified(out, ("--data-root", str(root)), name, stages, samples) for name, stages, samples in asked
    }
    last = read(out / "metrics.jsonl")[-1]
    assert last.held_out is not None
    return {
        **shares,
        "global_lipschitz": last.held_out.global_lipschitz,
        "epochs": last.epoch,
        "minutes": (last.seconds or 0) / 60,
    }


def certified(out: Path, data: Sequence[str], name: str, stages: str | None, samples: str) -> dict[str, float]:
    """Clean, attacked and certified accuracy by some stages, by estimate; found once. data: options that name it."""
    folder = out / name
    if not (folder / "summary.json").exists():
        options = ["--samples", samples, "--assurance", "estimate", *data, "--out", str(folder)]
        options += [] if stages is None else ["--stages", stages]
        llcert("certify", str(out / "model.onnx"), *options, "--overwrite", log=out.with_suffix(".log"))
    summary = json.loads((folder / "summary.json").read_text())
    return {
        key: 100 * summary[f"{key}_accuracy"]
        for key in ("clean", "attacked", "certified")
        if summary.get(f"{key}_accuracy") is not None
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a run, in percent."""
    head = (
        "",
        "clean",
        "global bound",
        f"local bound, first {LOCAL:,}",
        f"all stages, first {CASCADE}",
        "attack leaves of these",
        "epochs",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cascade: Mapping[str, float] = row["cascade"]
        figures: Sequence[float] = (
            row["global"]["clean"],
            row["global"]["certified"],
            row["local"]["certified"],
            cascade["certified"],
            cascade["attacked"],
        )
        lines.append(f"| {name} | {' | '.join(f'{f:.1f}' for f in figures)} | {row['epochs']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
