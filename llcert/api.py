"""The Python API: `load`, `from_torch` and `certify`; everything else is in the packages below."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llcert.data import Dataset
from llcert.data.npz import as_images
from llcert.errors import InvalidInput
from llcert.frontend.load import from_torch, load
from llcert.ir import Network
from llcert.options import Options
from llcert.reporting import Report, Tally
from llcert.runs.prepare import prepare

__all__ = ["certify", "from_torch", "images_and_labels", "load"]


def certify(
    network: Network,
    data: Dataset | str | tuple[Tensor, Tensor] | None = None,
    eps: float | Fraction | str | Sequence[float | Fraction | str] | Tensor | NDArray[Any] | None = None,
    **options: Any,
) -> Report:
    """Certifies every image of `data` in its L2 ball of radius `eps`; the report.

    data: a data set, the name or path of one, or images `[batch, *shape]` in [0, 1] with labels `[batch]`.
    eps: in pixel units, a number or text such as `36/255`; or so of each image. What is left out comes from the
    network's metadata.
    options: the other fields of `llcert.options.Options`, such as `target`, `top`, `stages`, `mean`, `std`, `device`,
    `samples`, `seed`, as text, numbers or lists. `pixel_range`: the lowest and the highest value of a pixel, `(0, 1)`;
    with `clip_input=True` only points of the ball in that range count. `self_check=False`: without the self-check.
    Raises InvalidInput for arguments that cannot be used, NumericalError where a bound is seen to be wrong.
    """
    given = Options.given(eps=eps, data=data if isinstance(data, str) else None, **options)
    certification = prepare(network, given, dataset=_given(data))
    tally = Tally(certification.subject)
    for result in certification.results():
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
