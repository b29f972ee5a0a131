"""What users write as radius, list and batch size."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcert.errors import InvalidInput
from llcert.question import Question, parse_batch_size, parse_eps, parse_list, parse_numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("36/255", 36 / 255), ("0.141", 0.141), ("0", 0.0), ("1e-3", 1e-3), (" 36 / 255 ", 36 / 255), ("0.5/2", 0.25)],
)
def test_eps_is_read(text: str, value: float) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1/0",
        "a/b",
        "36/-255",
        "1e999",
        "1e-400",
        "0x1",
        "1/2/3",
        "9" * 400,
        "1e-999999999/1",
        "½",
        "\uff11e-400",
        "\u0660.\u0661",
        "-0",
    ],
)
def test_eps_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as told:
        parse_eps(text)
    assert "\n" not in str(told.value)


@given(st.text(max_size=30))
def test_eps_is_finite_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert 0 <= parse_eps(text) < math.inf


def test_lists_are_read() -> None:
    assert parse_numbers("0.5, 1,-2e-1", "--mean") == (0.5, 1.0, -0.2)
    assert parse_list("global, local") == ("global", "local")


@pytest.mark.parametrize("text", ["", "1,,2", "nan", "0.1;0.2", "inf,1"])
def test_lists_of_nonsense_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--mean"):
        parse_numbers(text, "--mean")


def test_batch_sizes() -> None:
    assert parse_batch_size("auto") is None
    assert parse_batch_size("12") == 12
    for text in ("0", "-1", "1.5", "", "many", "9" * 30):
        with pytest.raises(InvalidInput, match="batch size"):
            parse_batch_size(text)


def test_question_survives_json() -> None:
    question = Question(eps="36/255", mean=(0.1, 0.2), stages=("local",), clip_input=True, seed=3)
    assert Question.from_json(question.to_json()) == question


def test_what_is_asked_wins_over_what_was_asked() -> None:
    filled = Question(eps="0.1").filled(Question(eps="0.2", seed=4))
    assert (filled.eps, filled.seed) == ("0.1", 4)


def test_foreign_question_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Question.from_json({"colour": "red"})


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
        Question(**values)


def test_one_way_to_ask_fills_no_other() -> None:
    earlier = Question(eps="0.1", top=3, seed=1)
    assert Question(eps_file="r", target=2).filled(earlier) == Question(eps_file="r", target=2, seed=1)
    assert Question(seed=2).filled(earlier) == Question(eps="0.1", top=3, seed=2)


def test_radii_survive_json() -> None:
    question = Question(eps=("0.1", "36/255"), target=3)
    assert Question.from_json(question.to_json()) == question
