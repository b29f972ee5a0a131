"""The few functions that most programs need; all else is in the packages below."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llcert.data import Dataset
from llcert.data.npz import as_images
from llcert.errors import InvalidInput
from llcert.frontend import exported, onnx_file, pt2
from llcert.frontend.comparison import checked
from llcert.ir import Network
from llcert.options import Options
from llcert.reporting import Report, Tally
from llcert.runs.job import prepare

ENDINGS = (".onnx", ".onnx.gz", ".pt2")


def load(path: Path | str) -> Network:
    """The network in a `.onnx`, `.onnx.gz` or `.pt2` file, after it agreed with the file's own runtime.

    Raises InvalidInput where the file cannot be read, UnsupportedModel where llcert cannot represent it exactly, or
    finds that it does not compute what the file does.
    """
    path = Path(path)
    if not is_file(path):
        what = "a folder; name a model file in it" if is_folder(path) else "no such file"
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


def is_file(path: Path) -> bool:
    """Whether a file lies there; names that no system allows count as missing."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder lies there, likewise."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def certify(
    network: Network,
    data: Dataset | str | tuple[Tensor, Tensor] | None = None,
    eps: float | Fraction | str | Sequence[float | Fraction | str] | Tensor | NDArray[Any] | None = None,
    **options: Any,
) -> Report:
    """The report on every image of `data`: who is certified in the L2 ball of radius `eps`, by which stage.

    data: a data set, the name or path of one, or images `[batch, *shape]` in [0, 1] with labels `[batch]`.
    eps: in pixel units, a number or text such as `36/255`; or so of each image. What is left out comes from the
    network's metadata.
    options: the other fields of `llcert.options.Options`, such as `target`, `top`, `stages`, `mean`, `std`, `device`,
    `samples`, `seed`, as text, numbers or lists. `pixel_range`: the lowest and the highest value of a pixel, `(0, 1)`;
    with `clip_input=True` only points of the ball in that range count. `self_check=False`: without it.
    Raises InvalidInput for arguments that cannot be used, NumericalError where a bound is seen to be wrong.
    """
    given = Options.given(eps=eps, data=data if isinstance(data, str) else None, **options)
    job = prepare(network, given, dataset=_given(data))
    tally = Tally(job.subject)
    for result in job.results():
        tally.add(result)
    return tally.report()


def _given(data: object) -> Dataset | None:
    """The data set that was handed in; None where an option names it or the metadata does."""
    match data:
        case None | str():
            return None
        case Dataset():
            return data
        case (Tensor() as images, Tensor() as labels):
            return images_and_labels(images, labels)
    raise InvalidInput(f"data of type {type(data).__name__}: give a name, a path as text, or tensors (images, labels)")


def images_and_labels(images: Tensor, labels: Tensor) -> Dataset:
    """A data set of tensors. images: `[batch, *shape]`, pixel units, or bytes 0 to 255; labels: `[batch]`.

    Raises InvalidInput for what is neither, for NaN and infinity.
    """
    if images.layout is not torch.strided or labels.layout is not torch.strided:
        raise InvalidInput("images and labels: give dense tensors (.to_dense())")
    if images.ndim < 2 or labels.ndim != 1:
        raise InvalidInput(
            f"images {list(images.shape)} and labels {list(labels.shape)}: give [batch, *shape], [batch]"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise InvalidInput(f"labels of type {labels.dtype}: give whole numbers, one an image")
    given = images.detach().cpu()
    pixels = as_images((given.float() if given.dtype == torch.bfloat16 else given).numpy(), "data")
    classes = labels.detach().cpu().numpy().astype(np.int64)
    return Dataset("images", "given", pixels, classes, int(classes.max(initial=0)) + 1, pixels.shape)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
