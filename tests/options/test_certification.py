"""Options: their types and ranges, JSON there and back, and where each one goes from its declaration."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llcert.errors import InvalidInput
from llcert.options import Options


def test_question_survives_json() -> None:
    options = Options(eps="36/255", mean=(0.1, 0.2), stages=("local",), clip_input=True, seed=3)
    assert Options.from_json(options.to_json()) == options


def test_what_is_asked_wins_over_what_was_asked() -> None:
    filled = Options(eps="0.1").filled(Options(eps="0.2", seed=4))
    assert (filled.eps, filled.seed) == ("0.1", 4)


def test_foreign_question_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Options.from_json({"colour": "red"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"eps": "0.1", "eps_file": "r"}, "--eps and --eps-file exclude each other"),
        ({"target": 1, "top": 2}, "--target and --top exclude each other"),
        ({"eps": (0.1, 0.2)}, "give every radius as text"),
        ({"target": "1"}, "target '1'"),
        ({"top": True}, "top 'True'"),
    ],
)
def test_questions_that_contradict_themselves(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(words)):
        Options(**values)


def test_one_way_to_ask_fills_no_other() -> None:
    earlier = Options(eps="0.1", top=3, seed=1)
    assert Options(eps_file="r", target=2).filled(earlier) == Options(eps_file="r", target=2, seed=1)
    assert Options(seed=2).filled(earlier) == Options(eps="0.1", top=3, seed=2)


def test_radii_survive_json() -> None:
    options = Options(eps=("0.1", "36/255"), target=3)
    assert Options.from_json(options.to_json()) == options
