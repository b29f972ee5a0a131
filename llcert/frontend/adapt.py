"""Images as data sets give them, in front of networks as files want them: layout and normalisation."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llcert.errors import InvalidInput
from llcert.ir import Input, Network, Node, Original, Shape, apply, evaluate_as_run, format_name, topological
from llcert.ops import Affine, Transpose
from llcert.ops.movement import reshaped


class Layout(enum.StrEnum):
    """How a network wants the entries of an image `[channels, height, width]`."""

    NCHW = "NCHW"
    """As they are."""
    NHWC = "NHWC"
    """Channels last."""
    FLAT = "flat"
    """In row-major order, whatever the shape."""


def adapt(
    network: Network,
    image_shape: Sequence[int],
    *,
    layout: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Network, tuple[str, ...]]:
    """The network of images `[*image_shape]` in pixel units, and a note on each thing put in front of it.

    layout: NCHW, NHWC or flat; None to tell it from the shapes. mean, std: of a pixel, one value for all or one a
    channel (the first axis); `(x - mean) / std` enters the network. Raises InvalidInput where something does not fit.
    """
    front, notes = preprocessing(network, image_shape, layout=layout, mean=mean, std=std)
    return behind(front, network), notes


def behind(front: Node, network: Network) -> Network:
    """The network with its input replaced by a value of that shape, such as `preprocessing` gives."""
    if front.shape != network.input.shape:
        raise InvalidInput(f"a value of shape {front.shape} does not fit the network's input {network.input.shape}")
    if isinstance(front.op, Input):
        return network
    new = {network.input: front}
    for node in topological(network.output):
        if node not in new:
            new[node] = dataclasses.replace(node, inputs=tuple(new[i] for i in node.inputs))
    original = None if network.original is None else _Behind(front, network.original)
    return dataclasses.replace(network, output=new[network.output], original=original)


@dataclass(frozen=True, eq=False)
class _Behind(Original):
    """What a network was read from, behind what was put in front of it."""

    front: Node
    inner: Original

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def single(self) -> bool:
        return self.inner.single

    @property
    def together(self) -> int:
        return self.inner.together

    @property
    def variants(self) -> tuple[Original, ...]:
        return tuple(_Behind(self.front, other) for other in self.inner.variants)

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner.logits(evaluate_as_run(self.front, images.to("cpu", self.front.dtype)))


def preprocessing(
    network: Network,
    image_shape: Sequence[int],
    *,
    layout: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Node, tuple[str, ...]]:
    """What `adapt` puts in front of a network, from the image to the shape of its input, and notes on it."""
    shape = tuple(image_shape)
    image = apply(Input(shape, network.input.dtype), name=network.input_name)
    normalised, notes = _normalised(image, mean, std)
    chosen = _given(layout) if layout is not None else _guessed(shape, network.input.shape)
    guessed = "" if layout is not None else ", told from the shapes"
    if shape != network.input.shape or layout is not None:
        notes = (*notes, f"layout: images {shape} enter the network as {network.input.shape}, {chosen}{guessed}")
    return _arranged(normalised, chosen, network.input.shape), notes


def _given(layout: str) -> Layout:
    for known in Layout:
        if known.lower() == layout.lower():
            return known
    raise InvalidInput(f"layout {layout!r} is unknown; choose one of {', '.join(Layout)}")


def _guessed(image: Shape, wanted: Shape) -> Layout:
    if _without_ones(image) == _without_ones(wanted):
        return Layout.NCHW if image == wanted or len(image) != 3 else _of_one_channel(image, wanted)
    if len(image) == 3 and _without_ones(_channels_last(image)) == _without_ones(wanted):
        return Layout.NHWC
    if len(_without_ones(wanted)) == 1 and math.prod(image) == math.prod(wanted):
        return Layout.FLAT
    raise InvalidInput(_mismatch(image, wanted))


def _of_one_channel(image: Shape, wanted: Shape) -> Layout:
    return Layout.NHWC if _channels_last(image) == wanted else Layout.FLAT


def _arranged(image: Node, layout: Layout, wanted: Shape) -> Node:
    """The image under the layout; refused where that does not give the shape the network wants."""
    if layout is Layout.NHWC:
        if len(image.shape) != 3:
            raise InvalidInput(f"layout NHWC needs images of three axes, not {image.shape}")
        turned = apply(Transpose((1, 2, 0)), image)
    else:
        turned = image
    fits = math.prod(turned.shape) == math.prod(wanted)
    if layout is not Layout.FLAT:
        fits = _without_ones(turned.shape) == _without_ones(wanted)
    if not fits:
        raise InvalidInput(f"{_mismatch(image.shape, wanted)} under layout {layout}")
    return reshaped(turned, wanted)


def _mismatch(image: Shape, wanted: Shape) -> str:
    return f"images of shape {image} do not fit a network that wants {wanted}"


def _channels_last(image: Shape) -> Shape:
    return (*image[1:], image[0])


def _without_ones(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


def _normalised(image: Node, mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Node, tuple[str, ...]]:
    if mean is None and std is None:
        return image, ()
    centre = _per_channel("mean", mean if mean is not None else (0.0,), image.shape)
    spread = _per_channel("std", std if std is not None else (1.0,), image.shape)
    if not bool((spread > 0).all()):
        raise InvalidInput(f"std must be positive, not {list(std or ())}")
    if bool((centre == 0).all()) and bool((spread == 1).all()):
        return image, ()
    op = Affine(scale=1 / spread, shift=-centre / spread)  # rounded in float64 alone (lemma 1)
    if not all(bool((t.abs() < image.rounding.largest).all()) for t in op.tensors().values()):
        raise InvalidInput(f"std {list(std or ())} is too small for {format_name(image.dtype)}")
    note = f"normalisation: (pixel - {_listed(centre)}) / {_listed(spread)} in front of the network; eps is in pixels"
    return apply(op, image, name="normalisation"), (note,)


def _per_channel(name: str, values: Sequence[float], shape: Shape) -> Tensor:
    """One value for all, or one a channel, shaped to broadcast over an image; in float64."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    if not bool(numbers.isfinite().all()):
        raise InvalidInput(f"{name} must be finite, not {list(values)}")
    if len(values) == 1:
        return numbers.reshape(())
    if not shape or len(values) != shape[0]:
        raise InvalidInput(f"{name} has {len(values)} values for images {shape}; give one, or one a channel")
    return numbers.reshape(-1, *[1] * (len(shape) - 1))


def _listed(values: Tensor) -> str:
    return ", ".join(f"{v:g}" for v in values.flatten().tolist())
