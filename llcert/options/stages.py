"""The stages of a certification: their names and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llcert.options.text import read_list

RUNNING = ("global", "local", "attack", "crown-ball", "crown-ball-intermediate", "targeted", "branch")
"""All stages after the clean prediction, in the order in which they run: cheap decisions first. `branch` may spend
all of its time budget on every image, so it runs last and sees the fewest."""

STAGES = tuple(name for name in RUNNING if name != "targeted")
"""The stages that a user may name; `attack` includes `targeted`."""

FORMER = {"dual": "crown-ball", "boxes": "crown-ball-intermediate"}
"""Former names of stages, which options and the files of earlier runs may use."""


def stage_name(name: str) -> str:
    """The present name of a stage."""
    return FORMER.get(name, name)


def read_stages(value: Any, name: str) -> tuple[str, ...]:
    """A comma list or a sequence of stages, by their present names."""
    return tuple(map(stage_name, read_list(value, name)))


def with_stage_names(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of an earlier run, its stages by their present names."""
    names = {"stages": [stage_name(s) for s in identity["stages"]]} if "stages" in identity else {}
    return {**identity, **names}
