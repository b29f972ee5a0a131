"""From options to settings: defaults, choices, what the model's metadata says."""

from __future__ import annotations

import enum
from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from llcert.certification import Settings
from llcert.errors import InvalidInput
from llcert.ir import Input, Network, apply
from llcert.options import Options
from llcert.options.certification import DECLARED
from llcert.options.declaration import declaration_of
from llcert.runs.resolve import settings_of, with_metadata
from llcert.spectral import Lanczos, PowerIteration

ENUMS = {name: kind for name, kind in get_type_hints(Settings).items() if isinstance(kind, enum.EnumType)}


def test_without_options_settings_have_their_defaults() -> None:
    """Those of the attack and of the solver among them, which are declared with the options and with the classes."""
    assert settings_of(Options(eps="0.1"), "net") == Settings(0.1)


@pytest.mark.parametrize("name", ENUMS)
def test_choices_are_those_of_the_settings(name: str) -> None:
    choices = declaration_of(DECLARED[name]).choices
    assert set(choices) == {member.value for member in ENUMS[name]}
    given = Options.given(eps="0.1", solver="power", **{name: choices[-1]})
    assert getattr(settings_of(given, "net"), name).value == choices[-1]


def test_every_setting_comes_from_an_option() -> None:
    given = Options.given(
        eps="1/4",
        stages="local,branch",
        assurance="probabilistic",
        semantics="real",
        delta=1e-3,
        proof_seconds=1.0,
        branch_seconds=2.0,
        radius=True,
        clip_input=True,
        pixel_range=(-1, 1),
        seed=7,
        attack="paper",
        steps=3,
        solver="power",
        start="saved",
        target=2,
    )
    found, base = settings_of(given, "net"), Settings(0.1)
    same = [f.name for f in fields(Settings) if getattr(found, f.name) == getattr(base, f.name)]
    assert same == ["targeted_pgd"]


def test_a_solver_has_its_own_limit_unless_one_is_given() -> None:
    power = settings_of(Options(eps="0.1", solver="power"), "net").solver
    assert power == PowerIteration()
    given = Options(eps="0.1", iterations=7, tolerance=0.5)
    assert settings_of(given, "net").solver == Lanczos(tolerance=0.5, cap=7)


def test_what_is_given_wins_over_metadata() -> None:
    network = Network(apply(Input((4,))), metadata={"eps": "0.1", "data": "digits", "mean": "0.5"})
    filled = with_metadata(Options(eps="0.2"), network)
    assert (filled.eps, filled.data, filled.mean) == ("0.2", "digits", (0.5,))
    assert with_metadata(Options(eps_file="radii.txt"), network).eps is None
    with pytest.raises(InvalidInput, match=r"metadata llcert\.mean"):
        with_metadata(Options(), replace(network, metadata={"mean": "x"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "and no data"),
        ({"data": "digits"}, "names no eps: give"),
        ({"eps": "0.1", "radius_tolerance": 0.1}, "give that too"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        settings_of(Options.given(**given), "net")
