"""Recipes: every range and type, TOML there and back, what ships, and the command line's options for all of it."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from llcert.cli import main
from llcert.data import NAMED
from llcert.errors import InvalidInput
from llcert.options.declaration import declaration_of
from llcert_train.settings import (
    GROUPS,
    Activation,
    Ball,
    Granularity,
    Loss,
    Recipe,
    kind_of,
    positive_eps,
    read_recipe,
    recipe_names,
)
from llcert_train.zoo import ARCHITECTURES, ActivationKind

OPEN = {"ball", "last_ball", "last_loss", "crop", "flip"}
FIELDS = {f.name: f for f in dataclasses.fields(Recipe)}
DECLARED = {name: declaration_of(f) for name, f in FIELDS.items()}
KINDS = {name: kind_of(f) for name, f in FIELDS.items()}
NUMBERS = [name for name, kind in KINDS.items() if kind in (int, float)]
ENUMS = [name for name, kind in KINDS.items() if issubclass(kind, enum.Enum)]
TEXTS = [name for name, kind in KINDS.items() if kind is str]

TOML = {
    "text": '"seven"',
    "number": "1.5",
    "whole number": "1",
    "truth": "true",
    "list": "[1, 2]",
    "table": "{ inner = 1 }",
    "date": "1979-05-27",
    "not a number": "nan",
    "infinity": "inf",
    "minus infinity": "-inf",
    "huge": "9223372036854775807000",
    "hexadecimal": "0x" + "f" * 8000,
    "list of huge ones": "[0x" + "f" * 8000 + "]",
    "binary": "0b" + "1" * 40000,
}
FITTING: dict[type, set[str]] = {
    bool: {"truth"},
    int: {"whole number"},
    float: {"number", "whole number"},
    str: {"text"},
}
"""Which of them a field of that type takes, where its range does; fields of an enum take none."""


def read(content: str | bytes, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_recipe(str(path))


def refused(content: str | bytes, folder: Path) -> str:
    """The message of a refusal: one line, of a length that fits a terminal."""
    with pytest.raises(InvalidInput) as caught:
        read(content, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / "recipe.toml") in message
    return message


def around(name: str) -> dict[str, Any]:
    """Values of other fields that leave a field its whole range."""
    others: dict[str, dict[str, Any]] = {
        "warm_up": {"ramp": 1.0},
        "ramp": {"warm_up": 0.0},
        "epochs": {"minutes": 1.0},
        "last_loss": {"last_share": 0.5, "ball": "liplt"},
        "last_ball": {"last_share": 0.5},
        "last_share": {"last_loss": "crm"},
    }
    return others.get(name, {})


class TestValues:
    @pytest.mark.parametrize("kind", TOML)
    @pytest.mark.parametrize("name", FIELDS)
    def test_types(self, name: str, kind: str, tmp_path: Path) -> None:
        content = "\n".join([f"{name} = {TOML[kind]}", *(f"{k} = {v}" for k, v in around(name).items())])
        fits = kind in FITTING.get(KINDS[name], set()) and name != "eps"
        if fits and KINDS[name] in (int, float):
            least, most = DECLARED[name].least, DECLARED[name].most
            fits = (least is None or float(TOML[kind]) >= least) and (most is None or float(TOML[kind]) <= most)
        if fits:
            value = getattr(read(content, tmp_path), name)
            assert value == tomllib.loads(content)[name]
            assert type(value) is KINDS[name]
        else:
            message = refused(content, tmp_path)
            assert name in message
            assert len(message) < 400

    @pytest.mark.parametrize("name", NUMBERS)
    def test_ranges(self, name: str) -> None:
        f, kind = FIELDS[name], KINDS[name]
        least, most, above = DECLARED[name].least, DECLARED[name].most, DECLARED[name].above
        assert least is not None, "a number of a recipe has a least value"
        inside = [least + 1 if kind is int else math.nextafter(least, math.inf)]
        inside += [] if f.default is None else [f.default]
        outside = [least - 1 if kind is int else math.nextafter(least, -math.inf), -math.inf, math.nan, math.inf]
        (outside if above else inside).append(least)
        if most is not None:
            inside.append(most)
            outside.append(most + 1 if kind is int else math.nextafter(most, math.inf))
        for value in inside:
            no_last_phase = name == "last_share" and value == 0
            found = getattr(Recipe(**{**({} if no_last_phase else around(name)), name: value}), name)
            assert found == value
            assert type(found) is kind
        for value in outside:
            with pytest.raises(InvalidInput, match=rf"^{name} .*: (must be|give) ") as caught:
                Recipe(**{**around(name), name: value})
            assert "\n" not in str(caught.value)
            if isinstance(value, kind):
                assert ("above" if above else "at least") in str(caught.value)
                assert f"{least:g}" in str(caught.value)
                assert most is None or f"at most {most:g}" in str(caught.value)

    @pytest.mark.parametrize("name", ENUMS)
    def test_choices(self, name: str) -> None:
        for member in KINDS[name]:
            assert getattr(Recipe(**{**around(name), name: member.value}), name) is member
            assert getattr(Recipe(**{**around(name), name: member}), name) is member
        for wrong in ("", "nonsense", member.value.upper(), 1, [], {}, "x" * 500, "two\nlines"):
            with pytest.raises(InvalidInput) as caught:
                Recipe(**{name: wrong})
            message = str(caught.value)
            assert message.startswith(name)
            assert "\n" not in message
            assert all(m.value in message for m in KINDS[name])

    def test_what_may_be_left_open(self) -> None:
        for name in OPEN:
            assert getattr(Recipe(**{name: None}), name) is None
        for name in set(FIELDS) - OPEN:
            with pytest.raises(InvalidInput, match=name):
                Recipe(**{name: None})

    def test_a_whole_number_is_a_number(self) -> None:
        recipe = Recipe(kappa=1, overshoot=2)
        assert (type(recipe.kappa), type(recipe.overshoot)) == (float, float)
        assert recipe == Recipe(kappa=1.0, overshoot=2.0)

    @pytest.mark.parametrize("eps", ["0", "0/255", "-1", "nan", "inf", "1e999", "1/0", "thirty", " ", "1e-400"])
    def test_eps_is_above_zero(self, eps: str) -> None:
        with pytest.raises(InvalidInput, match="eps"):
            Recipe(eps=eps)

    def test_eps_stays_as_written(self) -> None:
        assert Recipe(eps="36/255").eps == "36/255"
        assert positive_eps("36/255") == 36 / 255

    def test_the_ramp_ends_after_the_warm_up(self) -> None:
        Recipe(warm_up=0.5, ramp=0.5)
        with pytest.raises(InvalidInput, match=r"ramp 0\.4 ends before warm-up 0\.5"):
            Recipe(warm_up=0.5, ramp=0.4)

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"last_loss": "crm"}, "last_loss crm: give a last_share above 0"),
            ({"last_ball": "local"}, "last_ball local: give a last_share above 0"),
            ({"last_loss": "crm", "last_ball": "local"}, "last_loss crm: give a last_share above 0"),
            ({"last_share": 0.1}, "last_share 0.1: name a last_loss or a last_ball"),
            ({"last_share": 1.0, "last_loss": "crm"}, "last_share 1: must be at least 0 and at most 0.99"),
            ({"last_share": -0.1, "last_loss": "crm"}, "last_share -0.1: must be at least 0"),
            ({"last_share": 0.1, "last_loss": "bcp", "loss": "bcp"}, "those of the whole run"),
            ({"last_share": 0.1, "last_ball": "local", "ball": "local"}, "those of the whole run"),
        ],
    )
    def test_last_phases_that_are_none(self, values: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidInput, match=re.escape(words)) as error:
            Recipe(**values)
        assert len(str(error.value).splitlines()) == 1

    def test_phases_differ_in_loss_and_ball(self) -> None:
        recipe = Recipe(loss="crm", ball="liplt", epochs=7)
        assert recipe.phases == (recipe,)
        for changed, loss, ball in (
            ({"last_loss": "emma"}, Loss.EMMA, None),
            ({"last_ball": "local"}, Loss.CRM, Ball.LOCAL),
            ({"last_loss": "bcp", "last_ball": "local"}, Loss.BCP, Ball.LOCAL),
            ({"last_loss": "crm"}, Loss.CRM, None),
        ):
            both = recipe.changed({**changed, "last_share": 0.25})
            first, last = both.phases
            assert first == both
            assert last == recipe.changed({"loss": loss}).changed({"ball": ball}) or ball is None
            assert (last.loss, last.ball, last.phases) == (loss, ball, (last,))
            assert both.changed({"last_share": 0}) == recipe, "an option takes a recipe's last phase away"

    def test_a_recipe_is_a_value(self) -> None:
        assert Recipe(epochs=3) == Recipe(epochs=3) != Recipe(epochs=4)
        assert hash(Recipe(epochs=3)) == hash(Recipe(epochs=3))
        with pytest.raises(dataclasses.FrozenInstanceError):
            Recipe().epochs = 3  # type: ignore[misc]


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("learning_rate = 1e-3", "knows no 'learning_rate'"),
            ("[train]\nepochs = 3", "knows no 'train'"),
            ("[[loss]]\nname = 1", "loss"),
            ("epochs = 3\nepochs = 4", "not a TOML file"),
            ("epochs: 3", "not a TOML file"),
            ("epochs = ", "not a TOML file"),
            ('data = "two\nlines"', "not a TOML file"),
            ("x = " + "[" * 100_000, "not a TOML file"),
            ("epochs = " + "9" * 5000, "not a TOML file"),
            (b"\xff\xfe\x00", "not a TOML file"),
            (b"\x00\x01\x02", "not a TOML file"),
            (b"PK\x03\x04" + bytes(200), "not a TOML file"),
            (f'"{"k" * 5000}" = 1', "knows no"),
            ('"two\\nlines" = 1', "knows no"),
            ("warm_up = 0.9", "ramp"),
        ],
    )
    def test_what_is_refused(self, content: str | bytes, words: str, tmp_path: Path) -> None:
        assert words in refused(content, tmp_path)

    def test_unknown_names_are_told_what_there_is(self, tmp_path: Path) -> None:
        message = refused("epoch = 3", tmp_path)
        assert all(name in message for name in FIELDS)

    def test_line_ends_of_windows(self, tmp_path: Path) -> None:
        assert read("epochs = 3\r\nflip = true\r\n", tmp_path) == Recipe(epochs=3, flip=True)

    def test_nothing_said_is_the_defaults(self, tmp_path: Path) -> None:
        assert read("", tmp_path) == read("# nothing\n", tmp_path) == Recipe()

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("missing.toml", "No such file"),
            (".", "directory"),
            ("", "directory"),
            ("\0", "cannot"),
            ("x" * 9000, "long"),
        ],
    )
    def test_what_is_no_file(self, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InvalidInput) as caught:
            read_recipe(name)
        message = str(caught.value)
        assert words in message
        assert "\n" not in message
        assert len(message) < 600
        assert all(known in message for known in recipe_names())

    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(self: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", denied)
        with pytest.raises(InvalidInput, match="Permission denied"):
            read_recipe(str(tmp_path / "recipe.toml"))


def numbers(name: str) -> st.SearchStrategy[Any]:
    least, most, above = DECLARED[name].least, DECLARED[name].most, DECLARED[name].above
    if KINDS[name] is int:
        return st.integers(least, 2**63 - 1 if most is None else most)
    return st.floats(least, most, exclude_min=above, allow_nan=False, allow_infinity=False)


def values(name: str) -> st.SearchStrategy[Any]:
    if name == "eps":
        return st.sampled_from(["", "36/255", "0.5", "1e-3"])
    if name in NUMBERS:
        return numbers(name)
    if name in TEXTS:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    if name in ENUMS:
        return st.sampled_from([*KINDS[name], *([None] if FIELDS[name].default is None else [])])
    return st.booleans()


LAST = st.floats(0.01, 0.99)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    given_values = {name: draw(values(name)) for name in FIELDS if draw(st.booleans())}
    shares = sorted(given_values.get(name, FIELDS[name].default) for name in ("warm_up", "ramp"))
    for name in ("last_loss", "last_ball", "last_share"):
        given_values.pop(name, None)
    if draw(st.booleans()):
        other = Loss.EMMA if given_values.get("loss") is Loss.CRM else Loss.CRM
        given_values |= {"last_loss": other, "last_ball": draw(st.sampled_from(Ball)), "last_share": draw(LAST)}
    if not given_values.get("minutes"):
        given_values["epochs"] = max(1, given_values.get("epochs", 60))
    return Recipe(**{**given_values, "warm_up": shares[0], "ramp": shares[1]})


class TestRoundTrip:
    @given(recipes())
    @settings(max_examples=150, deadline=None)
    def test_toml_and_json(self, recipe: Recipe) -> None:
        text = recipe.to_toml()
        found = tomllib.loads(text)
        assert Recipe(**found) == recipe
        assert len(text.splitlines()) == len(found) == len(FIELDS) - list(recipe.to_json().values()).count(None)
        assert Recipe(**recipe.to_json()) == recipe
        assert all(type(v) in (bool, int, float, str, type(None)) for v in recipe.to_json().values())

    @pytest.mark.parametrize(
        "text", ["\U0001f600", 'a"b\\c', "tab\tline\nreturn\r", "\x00\x1f\x7f\x80", "é漢\uffff", "# x"]
    )
    def test_texts(self, text: str, tmp_path: Path) -> None:
        assert read(Recipe(data=text, arch=text).to_toml(), tmp_path) == Recipe(data=text, arch=text)

    def test_minutes_of_a_file_are_all_that_limits_it(self, tmp_path: Path) -> None:
        assert read("minutes = 90", tmp_path) == Recipe(epochs=0, minutes=90)
        assert read("minutes = 90\nepochs = 7", tmp_path) == Recipe(epochs=7, minutes=90)

    @pytest.mark.parametrize("name", recipe_names())
    def test_what_ships(self, name: str, tmp_path: Path) -> None:
        recipe = read_recipe(name)
        assert read(recipe.to_toml(), tmp_path) == recipe


class TestChanged:
    @given(recipes(), recipes())
    @settings(max_examples=50, deadline=None)
    def test_takes_what_is_given_and_leaves_the_rest(self, recipe: Recipe, other: Recipe) -> None:
        tied = ("loss", "warm_up", "ramp", "epochs", "minutes", "last_loss", "last_ball", "last_share")
        names = [n for n in FIELDS if n not in tied and getattr(other, n) is not None]
        for name in names:
            value = getattr(other, name)
            found = recipe.changed({name: value, **{n: None for n in FIELDS if n != name}})
            assert getattr(found, name) == value
            assert all(getattr(found, n) == getattr(recipe, n) for n in FIELDS if n != name)
        kept = ("ball", "crop", "flip") if other.loss == recipe.loss else ("crop", "flip")
        left = {n: getattr(recipe, n) for n in kept if getattr(other, n) is None}
        assert recipe.changed(other.to_json()) == dataclasses.replace(other, **left)

    def test_nothing(self) -> None:
        recipe = Recipe(epochs=3)
        assert recipe.changed({}) == recipe.changed(dict.fromkeys(FIELDS)) == recipe

    def test_epochs_alone_and_minutes_alone_replace_both(self) -> None:
        by_epochs, by_minutes, both = Recipe(epochs=7), Recipe(epochs=0, minutes=90), Recipe(epochs=7, minutes=90)
        for recipe in (by_epochs, by_minutes, both):
            assert recipe.changed({"epochs": 7}) == by_epochs
            assert recipe.changed({"minutes": 90}) == by_minutes
            assert recipe.changed({"epochs": 7, "minutes": 90}) == both
            assert recipe.changed({"rate": recipe.rate}) == recipe
        assert both.changed({"minutes": 0}) == by_epochs
        with pytest.raises(InvalidInput, match="epochs 0: give at least 1, or --minutes to fill"):
            by_minutes.changed({"minutes": 0})

    def test_another_loss_has_its_own_ball(self) -> None:
        recipe = read_recipe("finetune")
        assert recipe.ball is Ball.PRODUCT
        for loss in set(Loss) - {recipe.loss}:
            assert recipe.changed({"loss": loss}).ball is None
        assert recipe.changed({"loss": str(recipe.loss), "rate": 1e-4}).ball is Ball.PRODUCT
        assert recipe.changed({"loss": "crm", "ball": "liplt"}).ball is Ball.LIPLT

    def test_values_that_look_like_nothing_count(self) -> None:
        recipe = Recipe(flip=True, kappa=0.5, data="mnist")
        assert recipe.changed({"flip": False, "kappa": 0.0, "data": ""}) == Recipe(flip=False)

    def test_words_of_the_command_line(self) -> None:
        recipe = Recipe().changed({"loss": "gloro", "ball": "local", "per": "channel"})
        assert (recipe.loss, recipe.ball, recipe.per) == (Loss.GLORO, Ball.LOCAL, Granularity.CHANNEL)

    def test_checks_what_is_given(self) -> None:
        for wrong in ({"kappa": 2.0}, {"loss": "none"}, {"epochs": 0}, {"warm_up": 1.0}, {"eps": "0"}):
            with pytest.raises(InvalidInput):
                Recipe().changed(wrong)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_name_what_exists(name: str) -> None:
    recipe = read_recipe(name)
    assert Recipe() != recipe
    if name == "finetune":
        assert (recipe.arch, recipe.data, recipe.eps) == ("", "", "")
        assert recipe.activation in list(Activation)
        return
    assert recipe.arch in ARCHITECTURES
    assert recipe.data in NAMED
    assert positive_eps(recipe.eps) > 0
    assert recipe.activation in list(ActivationKind)


@pytest.mark.parametrize(
    ("name", "trained_at", "tolerance"),
    [
        ("cifar10-4c3f", 0.1551, 5e-5),
        ("cifar10-6c2f", 0.1551, 5e-5),
        ("cifar10-6c2f-maxmin", 0.1551, 5e-5),
        ("mnist-4c3f", 1.75, 5e-4),
        ("tiny-imagenet-8c2f", 0.16, 5e-5),
    ],
)
def test_recipes_train_at_the_papers_radius(name: str, trained_at: float, tolerance: float) -> None:
    """The paper's recipe (docs/method.md, section 16)."""
    recipe = read_recipe(name)
    assert recipe.overshoot * positive_eps(recipe.eps) == pytest.approx(trained_at, abs=tolerance)
    assert (recipe.rate, recipe.final_rate, recipe.decay_from, recipe.batch) == (1e-3, 1e-6, 0.5, 256)


class TestCommandLine:
    def test_there_is_a_recipe_to_name(self) -> None:
        assert recipe_names() == tuple(sorted(recipe_names()))
        assert len(recipe_names()) >= 6

    def test_every_field_is_an_option(self) -> None:
        both = parameters("finetune").keys() | parameters("train").keys()
        assert set(FIELDS) <= both

    @pytest.mark.parametrize("command", ["finetune", "train"])
    def test_options_say_what_the_fields_say(self, command: str) -> None:
        """And the default is the value of a run that names no field: of finetune's own recipe, or of the fields."""
        found, base = parameters(command), read_recipe("finetune") if command == "finetune" else Recipe()
        shared = [n for n in FIELDS if n in found and found[n].param_type_name == "option"]
        assert len(shared) > len(FIELDS) - 6
        for name in shared:
            option = found[name]
            assert f"--{name.replace('_', '-')}" in option.opts
            assert (f"--no-{name.replace('_', '-')}" in option.secondary_opts) == (KINDS[name] is bool)
            assert option.default is None, "what is not given must not win over a recipe"
            assert option.help.startswith(DECLARED[name].help)
            default = getattr(base, name)
            if default not in (None, ""):
                written = str(default.value if isinstance(default, enum.Enum) else default)
                assert f"Default: {written.lower() if KINDS[name] is bool else written}." in option.help

    @pytest.mark.parametrize("name", FIELDS)
    def test_every_field_has_help(self, name: str) -> None:
        text = DECLARED[name].help
        assert len(text) > 10
        assert text.endswith(".")
        assert text[0].isupper() or name in ("loss", "activation", "batch_norm", "ball")

    @pytest.mark.parametrize("name", ENUMS)
    def test_help_names_every_choice(self, name: str) -> None:
        words = re.findall(r"[\w-]+", DECLARED[name].help)
        assert {m.value for m in KINDS[name]} <= set(words)

    def test_activations_are_named_too(self) -> None:
        words = re.findall(r"[\w-]+", DECLARED["activation"].help)
        assert {*Activation, *ActivationKind} <= set(words)

    def test_groups_begin_at_fields(self) -> None:
        assert set(GROUPS) <= set(FIELDS)
        assert next(iter(FIELDS)) in GROUPS

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--loss", "hinge"], "local-lip-b"),
            (["--epochs", "0"], "epochs 0"),
            (["--epochs", "1.5"], "epochs"),
            (["--kappa", "nan"], "kappa"),
            (["--warm-up", "0.9"], "ramp"),
            (["--recipe", "nothing-like-it"], "cifar10-6c2f"),
            (["--eps", "zero"], "eps"),
        ],
    )
    def test_wrong_options_are_one_line(
        self, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["train", "mlp", "--data", "digits", "--out", str(tmp_path / "run"), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
