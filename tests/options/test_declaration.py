"""What follows from the declaration of an option: types, ranges, choices, in one line each."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llcert.errors import InvalidInput
from llcert.options import Options, check
from llcert.options.certification import DECLARED, PANELS
from llcert.options.declaration import declaration_of, kind_of, name_in_words

KINDS = {name: kind_of(f) for name, f in DECLARED.items()}
NUMBERS = [name for name, kind in KINDS.items() if kind in (int, float)]
CHOICES = [name for name, f in DECLARED.items() if declaration_of(f).choices]
WRONG: dict[type, Any] = {bool: 1, int: "1", float: "0.5", str: 3, tuple: "a"}


def refused(name: str, value: object) -> str:
    with pytest.raises(InvalidInput) as told:
        Options(**{name: value})  # type: ignore[arg-type]
    message = str(told.value)
    assert message.startswith(name_in_words(DECLARED[name]))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", DECLARED)
def test_a_value_of_another_type_is_refused(name: str) -> None:
    assert "give" in refused(name, WRONG[KINDS[name]])


@pytest.mark.parametrize("name", NUMBERS)
def test_ranges(name: str) -> None:
    d, whole = declaration_of(DECLARED[name]), KINDS[name] is int
    inside, outside = [], [math.nan, math.inf]
    if d.least is not None:
        (outside if d.above else inside).append(d.least)
        outside.append(d.least - 1 if whole else math.nextafter(d.least, -math.inf))
    if d.most is not None:
        (outside if d.below else inside).append(d.most)
        outside.append(d.most + 1 if whole else math.nextafter(d.most, math.inf))
    for value in inside:
        assert getattr(Options(**{name: value}), name) == value == check(name, value)
    for value in outside:
        refused(name, value)


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    choices = declaration_of(DECLARED[name]).choices
    assert [getattr(Options(**{name: word}), name) for word in choices] == list(choices)  # type: ignore[arg-type]
    assert f"choose {', '.join(choices)}" in refused(name, "another")


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_has_help_and_a_default_that_it_accepts(name: str) -> None:
    d = declaration_of(DECLARED[name])
    assert d.help.endswith(".")
    assert len(d.help) > 10
    assert d.panel in PANELS
    assert all(word in d.help for word in d.choices)
    if d.default is not None:
        assert check(name, d.default) == d.default
