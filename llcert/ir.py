"""Networks as immutable graphs of nodes, and the interface of operators: values, bounds, rounding."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.region import Region
from llcert.relaxation import Relaxation, Zone
from llcert.rounding import DOUBLE, FORMATS, Rounding

Shape = tuple[int, ...]
"""The shape of one image's value, without the batch axis. Tensors are always `[batch, *shape]`."""


class Op(ABC):
    """An operation on batched values. Concrete operators are frozen dataclasses; tensors are their parameters."""

    trainable: tuple[str, ...] = ()
    """The fields whose tensors training may move, besides those that require gradients already."""

    @abstractmethod
    def __call__(self, *values: Tensor) -> Tensor:
        """The value of the operator, `[batch, *shape]`."""

    @property
    def label(self) -> str:
        """The name of the operator in reports."""
        return type(self).__name__

    def result_type(self, *dtypes: torch.dtype) -> torch.dtype:
        """The number format of the value, of those of its inputs; raises TypeError where these differ.

        An operator converts nothing: a value of another format comes from a Cast.
        """
        if len(set(dtypes)) != 1:
            raise TypeError(f"{self.label} of values in {', '.join(map(format_name, dtypes)) or 'no format'}")
        return dtypes[0]

    @property
    def roundings(self) -> int | None:
        """The largest number of roundings of an evaluation in any format on any runtime. None: not stated, no proof.

        Of a linear map or a join: each product `a_ij x_j`, relative to itself, and the offset, relative to
        `offset_size`, before all of them are added up in any order; 0 where coefficients are 1 and -1. Of an
        activation: its result; 0 where it selects one of its inputs or a constant.
        """
        return None

    @property
    def entrywise(self) -> bool:
        """Whether each output depends on the input in its place alone, and all tensors broadcast against the value."""
        return False

    def commuted(self, order: Shape) -> Op | None:
        """The operator that, in front of a transposition, equals this one behind it; None: there is none.

        `self(x_1^T, ...) = commuted(order)(x_1, ...)^T`, where axis i of `x^T` is axis `order[i]` of x. Tensors that
        are trained stay as they are.
        """
        return permuted(self, order) if self.entrywise else None

    @property
    def unstated(self) -> tuple[str, ...]:
        """The statements that a proof needs and that the author of the operator has not made, by name."""
        return ("roundings",) if self.roundings is None else ()

    def scratch(self, inputs: Sequence[Shape], output: Shape) -> int:
        """Entries of temporary values, such as windows, in an evaluation of one image."""
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by field name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same operator, its floating-point parameters on `device` in `dtype`; shared where they already are."""
        moved = {k: t.to(device, dtype if t.is_floating_point() else t.dtype) for k, t in self.tensors().items()}
        return dataclasses.replace(self, **moved) if moved else self  # type: ignore[type-var]


def permuted(op: Op, order: Shape, **fields: object) -> Op | None:
    """The operator with tensors for a value before it was transposed, and other fields; None where they are trained."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    tensors = {name: tensor for name, tensor in op.tensors().items() if tensor.numel() != 1}
    if any(tensor.requires_grad for tensor in tensors.values()):
        return None
    tall = {n: t.reshape(*[1] * (len(order) - t.ndim), *t.shape).permute(inverse) for n, t in tensors.items()}
    fields = fields | tall
    return dataclasses.replace(op, **fields) if fields else op  # type: ignore[type-var]


@dataclass(frozen=True)
class Input(Op):
    """The image, in the shape and the number format the network wants."""

    shape: Shape
    dtype: torch.dtype = torch.float32

    def result_type(self, *dtypes: torch.dtype) -> torch.dtype:
        return self.dtype

    def __call__(self, *values: Tensor) -> Tensor:
        raise TypeError("the input has no operation; pass its value to evaluate()")


class LinearOp(Op):
    """An affine map of one value, `A x + b`.

    A concrete operator writes `linear` (without `b`), `transformed`, `roundings` and, where it has one, `offset`; box
    rule, row norms and adjoint follow. Overridden adjoints are tested against the derived one.
    """

    @property
    def copies(self) -> bool:
        """Whether every output is a copy of one of the inputs or a constant: nothing is computed, nothing rounds."""
        return False

    @property
    def moves(self) -> bool:
        """Whether every row and every column of A has at most one nonzero entry, so that nothing is summed."""
        return False

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor:
        """`A x`, `[batch, *shape]`."""

    @abstractmethod
    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> LinearOp:
        """The map whose matrix is `entrywise(A)`, without offset; `entrywise(0) = 0`, as of the absolute value.

        Coefficients that are 1 because values are copied change as well: `number` is for them.
        """

    @property
    def offset(self) -> Tensor | None:
        """`b`, broadcastable to the output shape; None for zero."""
        return None

    def paths(self, x: Tensor) -> Tensor:
        """`P x`, P one where A has a coefficient other than zero; x: float64, `[batch, *input shape]`."""
        return self.transformed(nonzero).linear(x)

    def offset_size(self, like: Tensor) -> Tensor:
        """At least `|b|` and all that an evaluation adds up to get it, `[1, *shape]`; like: an input.

        `|b|` itself is right where the offset is stored and added as it is.
        """
        return self(like.new_zeros(1, *like.shape[1:])).abs()

    def __call__(self, *values: Tensor) -> Tensor:
        (x,) = values
        y, b = self.linear(x), self.offset
        if b is None:
            return y
        return y + (b.to(y.dtype) if y.dtype.itemsize == 2 else b)  # two bytes: training under autocast

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        """`A* y`, `[batch, *shape]`; shape: of one input image."""
        with torch.enable_grad():
            x = torch.zeros(y.shape[0], *shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (result,) = torch.autograd.grad(self.linear(x), x, y, create_graph=y.requires_grad)
        return result

    def norm_bound(self, shape: Shape) -> float:
        """An upper bound of `||A||_2` over inputs of this shape, of the parameters as real numbers.

        The root of the largest row sum times the largest column sum of |A|, rounded up. Infinite where that is NaN.
        """
        magnitude = self.to("cpu", torch.float64).transformed(torch.abs)
        with torch.no_grad():
            rows = magnitude.linear(torch.ones(1, *shape, dtype=torch.float64))
            columns = magnitude.adjoint(torch.ones_like(rows), shape)
        if rows.numel() == 0 or columns.numel() == 0:
            return 0.0
        terms = max(rows.numel(), columns.numel()) + 8
        row, column = DOUBLE.bound(float(rows.max()), terms), DOUBLE.bound(float(columns.max()), terms)
        value = row if self.moves else math.sqrt(row) * math.sqrt(column)
        return DOUBLE.bound(value, 4) if value < math.inf else math.inf


def nonzero(coefficients: Tensor) -> Tensor:
    """1 where a coefficient is not zero, else 0, in float64: an entrywise change that counts coefficients."""
    return (coefficients != 0).to(torch.float64)


def number(entrywise: Callable[[Tensor], Tensor], value: float) -> float:
    """The entrywise change applied to one coefficient."""
    return float(entrywise(torch.tensor(value, dtype=torch.float64)))


def stated(op: Op) -> int:
    """The roundings that an operator's author states; raises UnsupportedModel where there is no such statement."""
    if op.roundings is None:
        raise UnsupportedModel(f"{op.label}: its roundings are not stated, so nothing can be proved of it")
    return op.roundings


class Join(Op):
    """A linear map of several values: every entry of each enters one output, with coefficient one."""

    @property
    def copies(self) -> bool:
        """Whether every output is one entry of one of the values: they stand side by side, and nothing rounds."""
        return False

    @abstractmethod
    def adjoints(self, y: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
        """The adjoint applied to `y`, one part for each input."""


class Activation(Op):
    """A nonlinearity of one value. What it does not state has a default that is right for every function, or none."""

    @property
    def relative(self) -> bool | None:
        """Whether its roundings are relative to the result, so that a zero is exact (True), or to the larger of the
        result and one (False). None: not stated."""
        return None

    @property
    def increasing(self) -> bool:
        """Whether no output falls where inputs grow."""
        return False

    @property
    def slope_roundings(self) -> int | None:
        """How many roundings, relative to themselves, computed slopes and secants are below the true ones at most.

        Those that are computed as 0 or 1 are not below at all. None: not stated.
        """
        return None

    @property
    def unstated(self) -> tuple[str, ...]:
        bounded = self.increasing or type(self).box is not Activation.box
        accurate = self.roundings == 0 or self.relative is not None
        stated = {
            "increasing or box": bounded,
            "roundings": self.roundings is not None,
            "relative": accurate,
            "slope_roundings": self.slope_roundings is not None,
        }
        return tuple(name for name, is_stated in stated.items() if not is_stated)

    def box(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Outer bounds of the output over the box of the input, as accurate as the function is.

        Its values at both ends where it is increasing; else nothing is known until the operator says more.
        """
        if self.increasing:
            return self(lower), self(upper)
        unknown = torch.full_like(self(lower), torch.inf)
        return -unknown, unknown

    def gaps(self, z: Region) -> tuple[Tensor, ...]:
        """Distances of each output from being constant over `z`, each `[batch, *output shape]`, pre-activation units.

        An output is constant as soon as one gap is <= 0 (eq. 3, 9); the sparsity loss (eq. 12) is their positive part.
        None by default: every output may vary.
        """
        return ()

    @torch.no_grad()
    def varying(self, z: Region) -> Tensor:
        """Outputs that may vary over `z`, boolean `[batch, *output shape]`: a superset; NaN varies."""
        gaps = self.gaps(z)
        if not gaps:
            return torch.ones_like(self(z.centre), dtype=torch.bool)
        constant = gaps[0] <= 0
        for gap in gaps[1:]:
            constant = constant | (gap <= 0)
        return ~constant

    @abstractmethod
    def slope(self, z: Region) -> Tensor:
        """Upper bounds `s`, `[batch, *input shape]`, with `||phi(a) - phi(b)|| <= ||s * (a - b)||` for a, b in `z`."""

    def secant(self, z: Region) -> Tensor:
        """Like `slope`, but for `b = z.centre` alone (docs/method.md, section 4); never larger than `slope`."""
        return self.slope(z)

    def summed(self, z: Region) -> Tensor | None:
        """Sizes of what a deployed evaluation adds up and takes off again to get each output, `[batch, *output shape]`.

        Zero where that is exact. None: `roundings` says all.
        """
        return None

    def described(self, shape: Shape) -> tuple[str, dict[str, Tensor]] | None:
        """Its kind and arrays in a certificate file (docs/certificate.md), in row-major order.

        shape: of its input. None: a certificate has no words for it.
        """
        return None

    @property
    def relaxable(self) -> bool:
        """Whether a backward pass goes through it."""
        return type(self).relaxations is not Activation.relaxations

    def relaxations(self, zone: Zone) -> tuple[Relaxation, ...] | None:
        """The steps a backward pass takes through it over `zone`, the first applied first; None: it cannot."""
        return None

    @abstractmethod
    def global_slope(self, shape: Shape) -> Tensor:
        """Upper bound of `slope` over all inputs, broadcastable to the input shape."""

    def least_slope(self, shape: Shape) -> Tensor | None:
        """Lower bound, exact, of the slope of every chord of an entrywise function, broadcastable to the input shape.

        None where outputs depend on several inputs, or nothing is known.
        """
        return torch.zeros(()) if self.entrywise and self.increasing else None


@dataclass(frozen=True, eq=False)
class Node:
    """One value in the network: an operation applied to earlier values.

    A network is its output node. There is no graph object, no name lookup and no mutation: a rewrite builds new
    nodes. name: the name in the imported file, for messages only. dtype: the number format in which the file computes
    the value; parameters are real numbers, in whatever format holds them.
    """

    op: Op
    inputs: tuple[Node, ...] = ()
    name: str = ""
    shape: Shape = field(kw_only=True)
    dtype: torch.dtype = field(kw_only=True, default=torch.float32)

    @property
    def rounding(self) -> Rounding:
        """The rounding of the value's format."""
        return FORMATS[self.dtype]


LARGEST = 2**27
"""Entries of the largest constant llcert takes from a file; one that asks for more is broken or hostile."""

LARGEST_VALUE = 2**24
"""Entries of the largest value of one image, likewise."""

LARGEST_TOGETHER = 2**25
"""Entries of all values of one image and of all parameters together, likewise; more where the file brings weights."""

LONGEST_AXIS = 2**16
"""Entries of the longest axis that repeated or padded entries may make, likewise."""


def apply(op: Op, *inputs: Node, name: str = "") -> Node:
    """The node `op(*inputs)`; its shape comes from running the operator on a batch of no images, which costs nothing.

    Raises RuntimeError, ValueError, IndexError or TypeError where shapes or number formats do not fit; importers name
    the node.
    """
    dtype = op.result_type(*(i.dtype for i in inputs))
    if isinstance(op, Input):
        return Node(op, (), name, shape=op.shape, dtype=dtype)
    place = next((t for t in op.tensors().values() if t.is_floating_point()), torch.zeros(()))
    with torch.no_grad():
        output = op(*(place.new_zeros(0, *i.shape) for i in inputs))
    if math.prod(output.shape[1:]) > LARGEST_VALUE:
        raise UnsupportedModel(
            f"{op.label} {name}: {tuple(output.shape[1:])} is more than llcert can hold, {LARGEST_VALUE:,} numbers; "
            "export the model for smaller images, or with fewer channels"
        )
    return Node(op, inputs, name, shape=tuple(output.shape[1:]), dtype=dtype)


def format_name(dtype: torch.dtype) -> str:
    """The name of a number format in messages and files: `float32`."""
    return str(dtype).removeprefix("torch.")


def topological(output: Node) -> list[Node]:
    """Every node the output depends on, inputs before users, each once. Iterative: depth is not limited."""
    order: list[Node] = []
    state: dict[Node, bool] = {}
    stack = [output]
    while stack:
        node = stack[-1]
        if node in state:
            stack.pop()
            if not state[node]:
                state[node] = True
                order.append(node)
            continue
        state[node] = False
        stack.extend(i for i in reversed(node.inputs) if i not in state)
    return order


def last_reads(readers: Iterable[Iterable[Node]]) -> Iterator[list[Node]]:
    """For each reader in turn, the nodes among those it reads that no later reader needs."""
    listed = [tuple(nodes) for nodes in readers]
    last = {node: i for i, nodes in enumerate(listed) for node in nodes}
    return ([n for n in dict.fromkeys(nodes) if last[n] == i] for i, nodes in enumerate(listed))


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


Rule = Callable[[Node], Node | None]
"""A rewrite: the node that computes the same value better, or None where it does not apply."""


def rewrite(output: Node, rules: Sequence[Rule]) -> Node:
    """The network with every rule applied wherever it fires, inputs first, until none does at any node."""
    new: dict[Node, Node] = {}
    for node in topological(output):
        inputs = tuple(new[i] for i in node.inputs)
        current = node if inputs == node.inputs else dataclasses.replace(node, inputs=inputs)
        while (better := next((b for rule in rules if (b := rule(current)) is not None), None)) is not None:
            current = better
        new[node] = current
    return new[output]


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
    heads: of each output it came with, what stands behind the logits, in order of execution, and is no part of it.
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


def copied(output: Node) -> Node:
    """The same network with parameters of its own, without gradients."""
    new: dict[Node, Node] = {}
    for node in topological(output):
        tensors = {name: tensor.detach().clone() for name, tensor in node.op.tensors().items()}
        op = dataclasses.replace(node.op, **tensors) if tensors else node.op  # type: ignore[type-var]
        new[node] = dataclasses.replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
    return new[output]


def place(output: Node, device: torch.device | str, dtype: torch.dtype | None = None) -> Node:
    """The same network with its parameters on `device` in `dtype`; None: each in the format of its value."""

    new: dict[Node, Node] = {}
    for node in topological(output):
        inputs = tuple(new[i] for i in node.inputs)
        new[node] = dataclasses.replace(node, op=node.op.to(device, dtype or node.dtype), inputs=inputs)
    return new[output]
