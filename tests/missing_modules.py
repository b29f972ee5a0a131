"""Python without a module that is installed."""

from __future__ import annotations

import builtins
from types import ModuleType
from typing import Any

import pytest


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Makes `import NAME` fail for the rest of a test."""
    real = builtins.__import__

    def hiding(wanted: str, *args: Any, **kwargs: Any) -> ModuleType:
        if wanted.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", hiding)
