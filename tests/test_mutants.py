"""Faults that tests must notice: each is made in a process of its own, where the test it names has to fail.

A share of them runs by default; all: `pytest tests/test_mutants.py --mutants 0`.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutant import Mutant, place
from mutants import MUTANTS

ROOT = Path(__file__).parents[1]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "noticed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--mutants") or len(MUTANTS)
        chosen = MUTANTS[:: -(-len(MUTANTS) // count)]
        metafunc.parametrize("noticed", chosen, ids=[m.name for m in chosen])


def test_a_fault_is_noticed(noticed: Mutant) -> None:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "--mutant", noticed.name]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run([*command, noticed.caught_by], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert done.returncode == 1, f"{noticed.caught_by} does not notice: {done.stdout[-2000:]}"
    assert "FAILED" in done.stdout, done.stdout[-2000:]


def test_every_fault_is_one_of_the_code_as_it_stands() -> None:
    assert len(MUTANTS) >= 40
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert place(mutant).__qualname__ == mutant.target


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_every_fault_names_a_test(mutant: Mutant) -> None:
    file, *names = mutant.caught_by.split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert names
    assert set(names) <= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def test_a_fault_that_is_gone_is_said_to_be() -> None:
    with pytest.raises(LookupError, match="0 functions"):
        place(Mutant("gone", "proved_bound", "no such piece", "", ""))
