"""Options and shared helpers of the test suite."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# before numpy: what tests compute is small, and threads that wait for work cost as much as threads that have some
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import mutant
import mutants
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is collected stays to the end: the garbage collector need not look at it again and again."""
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--graphs", type=int, default=25, help="random graphs in the soundness campaign (1000: all)")
    parser.addoption("--layers", type=int, default=100, help="random masked layers whose norms are proved (2000: all)")
    parser.addoption("--networks", type=int, default=500, help="networks in the campaign of proofs (10000: all)")
    parser.addoption("--shared-graphs", type=int, default=40, help="networks with shared values (5000: all)")
    parser.addoption("--shared-files", type=int, default=20, help="of them as files in onnxruntime (500: all)")
    parser.addoption("--mutant", help="a fault that is made before the tests run, by its name in tests/mutants.py")
    parser.addoption("--mutants", type=int, default=4, help="faults that tests are shown to notice (0: all)")
    parser.addoption("--first-graph", type=int, default=0, help="seed of the campaign's first graph")


@pytest.fixture(scope="session", autouse=True)
def fault(request: pytest.FixtureRequest) -> None:
    """The fault of `--mutant`, made in the running code."""
    name = request.config.getoption("--mutant")
    if name is not None:
        mutant.apply(mutants.named(name))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets and models beside the checkout; the test is skipped where there is none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not here")
    return folder
