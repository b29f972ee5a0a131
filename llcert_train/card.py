"""The card beside a trained model: where it comes from, how it was trained, what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llcert_train.metrics import Epoch, HeldOut
from llcert_train.settings import Recipe


def card(
    *,
    name: str,
    recipe: Recipe,
    summary: Mapping[str, Any],
    epochs: tuple[Epoch, ...],
    origin: str,
    notes: tuple[str, ...],
) -> str:
    """The card as Markdown. summary: of the exported file's certification. origin: what the training began with."""
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Trained by `llcert` from {origin}, to be certifiable at the L2 radius {summary['eps_text']} (pixels).",
            "",
            "## Measured",
            "",
            *_measured(summary),
            "",
            *_before_and_after(epochs),
            "## Training",
            "",
            *(f"- {note}" for note in notes),
            f"- {_length(epochs)}",
            "",
            "```toml",
            recipe.to_toml().rstrip(),
            "```",
            "",
            "## Versions",
            "",
            f"{', '.join(f'{k} {v}' for k, v in summary['versions'].items())}; {summary['device']}.",
            "",
        ]
    )


def _measured(summary: Mapping[str, Any]) -> Iterator[str]:
    stages = ",".join(stage["name"] for stage in summary["stages"][1:] if stage["name"] != "targeted")
    images = f"{summary['samples']:,} images of {summary['data']} ({summary['split']})"
    yield f"On {images}, by `llcert certify --stages {stages}`:"
    yield ""
    yield "| accuracy | % |"
    yield "|---|---|"
    rows = {
        "clean": "clean_accuracy",
        f"PGD ({summary['attack'] or 'not run'})": "attacked_accuracy",
        "PGD in the pixel range": "attacked_accuracy_in_range",
        "certified": "certified_accuracy",
    }
    for words, key in rows.items():
        yield f"| {words} | {_percent(summary[key])} |"
    yield ""
    bound = summary["global_lipschitz"]
    told = "-" if bound is None else f"{bound:.3g}"
    yield f"Global Lipschitz bound {told}. Assurance: `{summary['assurance']}`. {summary['assurance_words']}"


def _before_and_after(epochs: tuple[Epoch, ...]) -> Iterator[str]:
    looks = [epoch.held_out for epoch in epochs if epoch.held_out is not None]
    if len(looks) < 2:
        return
    yield f"On {looks[0].images} training images kept aside, at the same radius:"
    yield ""
    yield "| | clean | PGD (paper) | certified | global bound | local bound (mean) |"
    yield "|---|---|---|---|---|---|"
    for words, look in (("before training", looks[0]), ("after", looks[-1])):
        yield f"| {words} | {' | '.join(_numbers(look))} |"
    yield ""


def _numbers(look: HeldOut) -> Iterator[str]:
    for share in (look.clean_accuracy, look.attacked_accuracy, look.certified_accuracy):
        yield _percent(share)
    for bound in (look.global_lipschitz, look.local_lipschitz):
        yield "-" if bound is None else f"{bound:.4g}"


def _length(epochs: tuple[Epoch, ...]) -> str:
    last = epochs[-1]
    speed = [e.train.images_per_second for e in epochs if e.train is not None and e.train.images_per_second is not None]
    rate = f", {sum(speed) / len(speed):,.0f} images a second" if speed else ""
    minutes = (last.seconds or 0) / 60
    return f"epochs: {last.epoch}; steps: {last.step:,}; {minutes:.1f} minutes{rate}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
