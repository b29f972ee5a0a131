"""Commands offer what options declare."""

from __future__ import annotations

import pytest
from commands import parameters

from llcert.options.certification import DECLARED
from llcert.options.declaration import declaration_of, kind_of


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_is_one_of_certify(name: str) -> None:
    offered, d = parameters("certify")[name], declaration_of(DECLARED[name])
    flag = d.flag or f"--{name.replace('_', '-')}"
    assert flag in (*offered.opts, *offered.secondary_opts)
    assert offered.default is None, "what is not given must not win over the model's metadata"
    assert offered.help.startswith(d.help)
    shown = d.default if d.shown is None else d.shown
    assert shown in (None, "") or f"Default: {shown}." in offered.help
    assert offered.is_flag == (kind_of(DECLARED[name]) is bool)


def test_a_command_may_offer_a_part_under_other_flags() -> None:
    offered = parameters("attack")
    assert offered["steps"].opts == ["--steps"]
    assert offered["eps"].help == parameters("certify")["eps"].help
    assert "stages" not in offered
    for command in ("finetune", "train"):
        assert parameters(command)["stages"].help.startswith("Of the certification at the end: ")
    assert "mean" in parameters("finetune").keys() - parameters("train").keys()
