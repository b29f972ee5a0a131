"""The card beside a model: the numbers it was given, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llcert_train.card import card
from llcert_train.metrics import Epoch, HeldOut, Train
from llcert_train.settings import Recipe, read_recipe

SUMMARY: dict[str, Any] = {
    "eps_text": "36/255",
    "samples": 1234,
    "data": "digits",
    "split": "test",
    "stages": [{"name": "clean"}, {"name": "global"}, {"name": "attack"}, {"name": "targeted"}],
    "attack": "targeted",
    "clean_accuracy": 0.75,
    "attacked_accuracy": 0.5,
    "attacked_accuracy_in_range": 0.625,
    "certified_accuracy": 0.125,
    "global_lipschitz": 1.23456,
    "assurance": "estimate",
    "assurance_words": "An estimate, not a proof.",
    "versions": {"llcert": "0.1", "torch": "2.13"},
    "device": "cpu",
}


def epochs(*looks: HeldOut | None) -> tuple[Epoch, ...]:
    train = Train(loss=1.0, images_per_second=1500.0)
    return tuple(
        Epoch(n, step=10 * n, seconds=60.0 * n, train=train if n else None, held_out=look)
        for n, look in enumerate(looks)
    )


def told(*looks: HeldOut | None, **summary: Any) -> str:
    return card(
        name="digits_certifiable",
        recipe=Recipe(eps="36/255", loss="bcp", data="digits"),
        summary={**SUMMARY, **summary},
        epochs=epochs(*looks),
        origin="`digits.onnx`",
        notes=("surgery: a note",),
    )


LOOKS = [HeldOut(64, 0.25 * n, 0.1 * n, 0.01 * n, global_lipschitz=9.0 / (n + 1)) for n in range(4)]


def test_it_tells_what_was_measured() -> None:
    text = told(LOOKS[0], LOOKS[3])
    assert text.startswith("# digits_certifiable\n")
    for words in (
        "`digits.onnx`",
        "36/255",
        "1,234 images of digits (test), by `llcert certify --stages global,attack`",
        "- surgery: a note",
        "torch 2.13",
        "cpu",
    ):
        assert words in text
    assert re.findall(r"^\| (.*) \| ([0-9.]+) \|$", text, re.M) == [
        ("clean", "75.00"),
        ("PGD (targeted)", "50.00"),
        ("PGD in the pixel range", "62.50"),
        ("certified", "12.50"),
    ]
    assert "Global Lipschitz bound 1.23. Assurance: `estimate`. An estimate, not a proof." in text
    assert "epochs: 1; steps: 10; 1.0 minutes, 1,500 images a second" in text


def test_before_and_after_are_the_first_look_and_the_last() -> None:
    text = told(LOOKS[0], None, LOOKS[1], LOOKS[2], None)
    assert "On 64 training images kept aside" in text
    assert "| before training | 0.00 | 0.00 | 0.00 | 9 | - |" in text
    assert "| after | 50.00 | 20.00 | 2.00 | 3 | - |" in text
    for few in ([], [LOOKS[0]], [None, LOOKS[1]]):
        assert "before training" not in told(*(few or [None]))


def test_the_recipe_can_be_cut_out_and_used(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", told(LOOKS[0]), re.DOTALL)
    assert found is not None
    (tmp_path / "again.toml").write_text(found[1])
    assert read_recipe(str(tmp_path / "again.toml")) == Recipe(eps="36/255", loss="bcp", data="digits")


@pytest.mark.parametrize("missing", ["clean_accuracy", "attacked_accuracy", "certified_accuracy", "global_lipschitz"])
def test_what_could_not_be_computed_is_a_dash(missing: str) -> None:
    """As in the report of a network that diverged in its last step."""
    text = told(LOOKS[0], **{missing: None})
    assert text.count("| - |") + text.count("bound -. ") == 1
    assert "None" not in text
