"""A network with what its file says of it, its evaluation, and the file or module it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.ir.graph import Node, last_reads, place, topological
from llcert.ir.operator import Input, Op


def evaluate(output: Node, image: Tensor) -> Tensor:
    """The network's value, `[batch, *output.shape]`. image: `[batch, *input shape]`, on the parameters' device."""
    return _evaluated(output, image, lambda node, value: value)


def evaluate_as_run(output: Node, image: Tensor) -> Tensor:
    """The value as a runtime computes it, every operator in the format of its value; on the image's device."""
    return _evaluated(place(output, image.device), image, lambda node, value: value.to(node.dtype))


def _evaluated(output: Node, image: Tensor, kept: Callable[[Node, Tensor], Tensor]) -> Tensor:
    """The value of a node; values of earlier nodes pass through `kept` and are freed after their last use."""
    order = topological(output)
    values: dict[Node, Tensor] = {}
    for node, read in zip(order, last_reads(n.inputs for n in order), strict=True):
        values[node] = kept(node, image if isinstance(node.op, Input) else node.op(*(values[i] for i in node.inputs)))
        for other in read:
            del values[other]
    return values[output]


class Original(ABC):
    """The file or module that a network was read from, evaluated by its own runtime."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the runtime in reports."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The number format of the images it takes."""

    @property
    def single(self) -> bool:
        """Whether it computes in float32 what it says to compute in float64."""
        return False

    @property
    def together(self) -> int:
        """How many images it computes at a time at least: the batch that is baked into it."""
        return 1

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """`[images, classes]` on the CPU; images: `[images, *input shape]`, of any format.

        NaN where the answer that the original gives is none that these logits have. Raises UnsupportedModel where the
        runtime fails.
        """

    @property
    def variants(self) -> tuple[Original, ...]:
        """The other ways its runtime may run it: without rewrites of its own, or one image at a time."""
        return ()


@dataclass(frozen=True)
class Network:
    """A classifier: its logits node, and what the file or module it came from said about it.

    output: node of shape `(classes,)`. notes: one line each, what the importer did that a user should know.
    heads: for each output of the file the operators behind the logits, such as a softmax, in order of execution; they
    are no part of the network.
    metadata: the `llcert.*` keys (data, eps, mean, std, layout) without their prefix. original: what it was read from,
    None for a network that was made here, or has been changed since.
    """

    output: Node
    input_name: str = "image"
    output_name: str = "logits"
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""
    heads: tuple[tuple[Op, ...], ...] = ()
    original: Original | None = field(default=None, compare=False, repr=False)

    @property
    def input(self) -> Node:
        """The input node; raises UnsupportedModel where the output depends on no image."""
        found = next((n for n in topological(self.output) if isinstance(n.op, Input)), None)
        if found is None:
            raise UnsupportedModel(f"{self.source or 'network'}: the output does not depend on the input")
        return found

    @property
    def classes(self) -> int:
        return self.output.shape[0]

    def operators(self) -> Iterator[Node]:
        """Every node but the input, in order of execution."""
        return (n for n in topological(self.output) if not isinstance(n.op, Input))

    @property
    def dtype(self) -> torch.dtype:
        """The widest number format of its values: one in which all of them can be computed."""
        wide = any(n.dtype == torch.float64 for n in topological(self.output))
        return torch.float64 if wide else torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[batch, classes]` of images `[batch, *input shape]`, computed in the images' type and place."""
        return evaluate(place(self.output, images.device, images.dtype), images)
