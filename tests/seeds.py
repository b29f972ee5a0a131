"""How much of a campaign the default run does; the marker `slow` has the rest."""

from __future__ import annotations

from typing import Any

import pytest


def seeds(default: int, full: int) -> list[Any]:
    """Parameters: the seeds below `default`, and marked slow those that are left up to `full`."""
    return [s if s < default else pytest.param(s, marks=pytest.mark.slow) for s in range(full)]


def sizes(default: int, full: int) -> list[Any]:
    """Parameters: how many cases a test goes through, and marked slow the full number."""
    return [default, pytest.param(full, marks=pytest.mark.slow)]
