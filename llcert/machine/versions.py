"""Versions of llcert and of the packages that the numbers of a run depend on."""

from __future__ import annotations

import importlib.metadata
import platform

VERSION = "0.1.0"


def versions() -> dict[str, str]:
    """Of llcert, Python and the packages that numbers depend on; packages that are not installed are left out."""
    found = {"llcert": VERSION, "python": platform.python_version()}
    for name in ("torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name.removesuffix("-gpu")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
