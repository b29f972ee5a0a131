"""Reads networks: model files by the end of their name, and torch modules, each compared with its own runtime."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from llcert.errors import InvalidInput
from llcert.frontend import exported, onnx_file, pt2
from llcert.frontend.comparison import checked
from llcert.ir import Network

ENDINGS = (".onnx", ".onnx.gz", ".pt2")


def load(path: Path | str) -> Network:
    """The network in a `.onnx`, `.onnx.gz` or `.pt2` file, after it agreed with the file's own runtime.

    Raises InvalidInput where the file cannot be read, UnsupportedModel where llcert cannot represent it exactly, or
    finds that it does not compute what the file does.
    """
    path = Path(path)
    if not _is_file(path):
        what = "a folder; name a model file in it" if _is_folder(path) else "no such file"
        raise InvalidInput(f"model {str(path)[:200]!r}: {what}")
    name = path.name.lower()
    if name.endswith(".pt2"):
        return checked(pt2.load_pt2(path))
    if name.endswith((".onnx", ".onnx.gz")):
        return checked(onnx_file.load(path))
    raise InvalidInput(f"{path}: not a model file that llcert reads; it reads {', '.join(ENDINGS)}")


def from_torch(module: nn.Module, example: Tensor) -> Network:
    """The classifier a module computes in eval mode, with the module's own parameters, after it agreed with the module.

    Training one trains both. example: one image or a batch of them, `[batch, *shape]`, floating point; only its shape
    and type matter. Weights that the module computes from parameters (weight norm, spectral norm, orthogonal layers)
    are computed once, and a note says so. The module's modes are left as they were.
    Raises UnsupportedModel where torch cannot export the module or llcert cannot represent it.
    """
    return checked(exported.from_torch(module, example))


def _is_file(path: Path) -> bool:
    """Whether a file lies there; names that no system allows count as missing."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    """Whether a folder lies there, likewise."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
