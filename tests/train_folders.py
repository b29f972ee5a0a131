"""The folder of a training run in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llcert.errors import InvalidInput
from llcert_train.folder import TrainingFolder, open_folder
from llcert_train.settings import Recipe

RECIPE = Recipe(eps="0.5").to_json()
TASK: dict[str, Any] = {"layout": None}
IDENTITY: dict[str, Any] = {"data": "blobs", "eps": "0.5", "model_sha256": "a" * 64, "processes": 1}
STATE = {"step": 3, "weights": torch.arange(500.0), "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}}}


def begun(path: Path, **identity: Any) -> TrainingFolder:
    folder = open_folder(path, resume=False, overwrite=False)
    folder.begin(TASK, RECIPE, {**IDENTITY, **identity})
    return folder


def resumed(path: Path) -> TrainingFolder:
    folder = open_folder(path, resume=True, overwrite=False)
    folder.begin(TASK, RECIPE, IDENTITY)
    return folder


def complaint(error: pytest.ExceptionInfo[InvalidInput]) -> str:
    (line,) = str(error.value).splitlines()
    assert 10 < len(line) < 1000
    return line


def listing(path: Path) -> dict[str, bytes | None]:
    """Every file below a folder and its content."""
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in sorted(path.rglob("*"))}
