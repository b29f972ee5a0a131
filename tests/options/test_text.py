"""What users write as radius, list and batch size."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llcert.errors import InvalidInput
from llcert.options.text import parse_eps, parse_list, parse_numbers, read_batch_size


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
    assert read_batch_size("auto", "batch size") is None
    assert read_batch_size("12", "batch size") == 12
    for text in ("0", "-1", "1.5", "", "many", "9" * 30):
        with pytest.raises(InvalidInput, match="batch size"):
            read_batch_size(text, "batch size")
