"""A small convolutional network as a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_text import noise, onnx_model, written

BODY = "c = Conv(x, w) r = Relu(c) f = Flatten(r) h = MatMul(f, d) y = Softmax<axis=1>(h)"
WEIGHTS = {"w": noise(4, 3, 3, 3), "d": noise(144, 5)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The network of BODY, which ends in a softmax."""
    return written(tmp_path, onnx_model(BODY, WEIGHTS))
