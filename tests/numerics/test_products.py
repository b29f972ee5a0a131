"""Float32 stays float32 while certificates are computed."""

from __future__ import annotations

import torch

from llcert.numerics.products import full_precision


def settings() -> list[str]:
    backends = torch.backends
    places = [
        (backends.cudnn, "conv"),
        (backends.cuda, "matmul"),
        (backends.mkldnn, "conv"),
        (backends.mkldnn, "matmul"),
    ]
    return [getattr(backend, products).fp32_precision for backend, products in places]


def test_full_precision_inside_and_as_before_outside() -> None:
    before = settings()
    with full_precision():
        assert settings() == ["ieee"] * 4
    assert settings() == before


def test_settings_come_back_after_an_error() -> None:
    before = settings()
    try:
        with full_precision():
            raise KeyError
    except KeyError:
        pass
    assert settings() == before
