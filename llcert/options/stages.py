"""The stages of a certification: their names and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llcert.options.text import read_list

RUNNING = ("global", "local", "attack", "crown-ball", "crown-ball-intermediate", "targeted", "branch")
"""All stages after the clean prediction, in the order in which they run: by the cost of a decision. `branch` may spend
all of its time budget on every image, so it runs last and sees the fewest."""

STAGES = tuple(name for name in RUNNING if name != "targeted")
"""Those that a user may name; `attack` stands for `targeted`, too."""

FORMER = {"dual": "crown-ball", "boxes": "crown-ball-intermediate"}
"""What stages were called before: accepted where a user names them and where an earlier run is read."""


def stage_name(name: str) -> str:
    """The name that a stage has today."""
    return FORMER.get(name, name)


def read_stages(value: Any, name: str) -> tuple[str, ...]:
    """A comma list of stages or a sequence of them, by the names that they have today."""
    return tuple(map(stage_name, read_list(value, name)))


def with_stage_names(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of an earlier run, its stages by the names that they have today."""
    names = {"stages": [stage_name(s) for s in identity["stages"]]} if "stages" in identity else {}
    return {**identity, **names}
