"""Fixtures of several files here."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_runs import Asked, asked
from train_folders import STATE, begun

from llcert_train.metrics import Epoch


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a run that was stopped after step 3 of epochs of 2 steps."""
    folder = begun(tmp_path / "out")
    for number in range(2):
        folder.append(Epoch(number, step=2 * number))
    folder.save(STATE)
    folder.close()
    return tmp_path / "out"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Path]:
    folder = tmp_path_factory.mktemp("stopped")
    question = asked(folder)
    question.begun(folder / "out").go(3)
    return question, folder / "out"
