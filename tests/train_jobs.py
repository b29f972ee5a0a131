"""Training jobs in tests: data files, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_runs import Asked

import llcert
from llcert.errors import InvalidInput, LlcertError
from llcert.ir import Network

MODELS = Path(__file__).parents[1] / "models"


def data_file(path: Path, labels: Sequence[int], shape: tuple[int, ...] = (1, 4, 4), seed: int = 0) -> str:
    """Random bytes with these labels, no two images alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.array(labels, dtype=np.int64))
    return str(path)


def saved(network: Network, path: Path) -> Path:
    llcert.save(network, path)
    return path


def refused(question: Asked, words: str | None = None, kind: type[LlcertError] = InvalidInput) -> str:
    with pytest.raises(kind, match=words) as error:
        question.job()
    (line,) = str(error.value).splitlines()
    assert 10 < len(line) < 1000
    return line
