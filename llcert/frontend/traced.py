"""Graphs of aten operators, from whichever torch door, made into nodes."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.advice import advice
from llcert.ir import LARGEST, Input, Network, Node, apply, topological
from llcert.passes import canonicalise, check_legal, strip_head
from llcert.registry import BATCH, Call, Importer, torch_importers


@dataclass(frozen=True)
class Ref:
    """A value of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator call of a traced graph.

    target: an aten overload, or a Python function of integers, lists and tuples. arguments: by name in the schema,
    or by position for a Python function; values of the graph stand as Refs, also inside lists. output: one name, or
    one for each result. hint: where in the user's model the call comes from.
    """

    target: torch._ops.OpOverload | Callable[..., Any]
    arguments: Mapping[str, Any]
    output: str | tuple[str | None, ...]
    hint: str = ""

    @property
    def kind(self) -> str:
        """The operator's name without namespace and overload."""
        if isinstance(self.target, torch._ops.OpOverload):
            return self.target._schema.name.split("::")[-1]
        return self.target.__name__

    def refs(self) -> Iterator[str]:
        """The names of the values it reads."""
        return (r.name for r in _leaves(list(self.arguments.values())) if isinstance(r, Ref))


@dataclass(frozen=True)
class Traced:
    """A torch graph with one image input. batch: the number that stands for the batch axis in its literal sizes."""

    known: Mapping[str, Tensor]
    image: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int
    steps: tuple[Step, ...]
    output: str
    source: str


def network(traced: Traced, notes: Sequence[str] = ()) -> Network:
    """The classifier a torch graph computes, canonical and legal.

    Raises UnsupportedModel naming the operator, the node and what would help.
    """
    if any(size < 1 for size in traced.shape):
        raise UnsupportedModel(f"{traced.source}: the input shape {traced.shape} holds no values")
    if not traced.dtype.is_floating_point:
        raise UnsupportedModel(f"{traced.source}: the input is {traced.dtype}; llcert certifies floating-point images")
    literal = _detached(_Walk(traced).output(), tuple(traced.known.values()))
    logits, removed = strip_head(canonicalise(literal))
    logits = canonicalise(logits)
    check_legal(logits, traced.source)
    return Network(logits, input_name=traced.image, notes=(*notes, *removed), source=traced.source)


@dataclass
class _Cell:
    """A value while the graph is walked; an in-place operator changes it for every name. family: shared memory."""

    value: Any
    family: object = field(default_factory=object)


class _Walk:
    """Runs through the steps once: what is known is computed, what depends on the image becomes nodes."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.cells = {name: _Cell(value) for name, value in traced.known.items()}
        self.cells[traced.image] = _Cell(apply(Input(traced.shape), name=traced.image))
        self.last_use = {name: i for i, step in enumerate(traced.steps) for name in step.refs()}
        self.last_use[traced.output] = len(traced.steps)

    def output(self) -> Node:
        """The node of the output."""
        for index, step in enumerate(self.traced.steps):
            self._take(index, step)
        value = self._value(self.traced.output)
        if not isinstance(value, Node):
            raise UnsupportedModel(f"{self.traced.source}: the output does not depend on the input")
        return value

    def _take(self, index: int, step: Step) -> None:
        where = f"{self.traced.source}: {step.kind} ({', '.join(filter(None, (_name(step), step.hint)))})"
        arguments = _mapped(step.arguments, lambda leaf: self._value(leaf.name) if isinstance(leaf, Ref) else leaf)
        written = _written(step, where)
        try:
            value = self._computed(step, arguments, where)
        except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, NotImplementedError) as error:
            raise UnsupportedModel(f"{where}: cannot be computed: {_first_line(error)}") from error
        if written is not None:
            self._write(index, step, written, value, where)
        else:
            self._store(step, value, arguments)

    def _computed(self, step: Step, arguments: dict[str, Any], where: str) -> Any:
        if not isinstance(step.target, torch._ops.OpOverload):
            return step.target(*arguments.values())
        kind = step.kind.removesuffix("_") if _written(step, where) else step.kind
        if kind in _CHECKS:
            return None
        if kind == "sym_size":
            return _size(arguments)
        arguments = _blank_images(kind, arguments)
        if not any(isinstance(leaf, Node) for leaf in _leaves(arguments)):
            return _known(step.target, _one_row(arguments), where)
        importer: Importer | None = torch_importers.get(kind)
        if importer is None:
            raise UnsupportedModel(f"{where}: {advice(kind)}")
        attributes = self._attributes(step.target, arguments)
        nodes = [leaf for leaf in _leaves(arguments) if isinstance(leaf, Node)]
        result = _named(importer(Call(kind, where, 0, (), attributes)), _name(step), known=set(nodes))
        if not isinstance(result, tuple) or len(step.target._schema.returns) <= len(result):
            return result
        return (*result, *[_UNKNOWN] * (len(step.target._schema.returns) - len(result)))

    def _attributes(self, target: torch._ops.OpOverload, arguments: dict[str, Any]) -> dict[str, Any]:
        """Every argument of the schema; numbers where a tensor or a scalar may stand become tensors."""
        attributes: dict[str, Any] = {}
        for argument in target._schema.arguments:
            value = arguments.get(argument.name, argument.default_value)
            exact = isinstance(value, int | float) and not isinstance(value, bool)
            if exact and str(argument.type).removeprefix("Optional[").rstrip("]") in ("Tensor", "number"):
                value = torch.tensor(value, dtype=self.traced.dtype)
            if argument.name in _SIZES and value and value[0] == self.traced.batch:
                value = [BATCH, *value[1:]]
            attributes[argument.name] = value
        return attributes

    def _value(self, name: str) -> Any:
        if name not in self.cells:
            raise UnsupportedModel(
                f"{self.traced.source}: value {name} is used before it is computed; the file is broken"
            )
        value = self.cells[name].value
        if value is _UNKNOWN:
            raise UnsupportedModel(
                f"{self.traced.source}: {name} holds positions or a mask, which jump; use the values"
            )
        return value

    def _store(self, step: Step, value: Any, arguments: dict[str, Any]) -> None:
        """Binds the results; they share memory with an argument that they view or are."""
        shared = _viewed(step, value, arguments)
        family = object() if shared is None else self.cells[shared].family
        if isinstance(step.output, str):
            self.cells[step.output] = _Cell(value, family)
            return
        results = value if isinstance(value, tuple | list) else (value,)
        for name, result in zip(step.output, results, strict=False):
            if name is not None:
                self.cells[name] = _Cell(result, family)

    def _write(self, index: int, step: Step, written: str, value: Any, where: str) -> None:
        """An in-place operator: its result is the new value of what it wrote to, under every name."""
        cell = self.cells[written]
        for name, other in self.cells.items():
            seen = other is not cell and other.family is cell.family and self.last_use.get(name, -1) > index
            if seen:
                raise UnsupportedModel(
                    f"{where}: writes in place into a value that {name} shares; use the operator that returns a copy"
                )
        if not isinstance(step.output, str):
            raise UnsupportedModel(f"{where}: writes in place and has several results")
        cell.value = value
        self.cells[step.output] = cell


_UNKNOWN = object()
"""Stands for a result that llcert does not follow; an error once it is used."""

_CHECKS = frozenset(
    {
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
_SIZES = frozenset({"size", "shape"})
_LIKE = frozenset({"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"})


def _size(arguments: Mapping[str, Any]) -> int:
    value, axis = arguments["self"], int(arguments["dim"])
    shape = (BATCH, *value.shape) if isinstance(value, Node) else tuple(value.shape)
    return shape[axis]


def _blank_images(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Where an operator asks an image-dependent value for its shape alone, zeros of that shape."""
    value = arguments.get("self")
    if kind not in _LIKE or not isinstance(value, Node):
        return arguments
    return {**arguments, "self": torch.zeros(1, *value.shape)}


def _one_row(arguments: dict[str, Any]) -> dict[str, Any]:
    """New tensors for the whole batch get one row: they are the same for every image."""
    size = arguments.get("size")
    if "self" in arguments and not isinstance(arguments["self"], Tensor):
        return arguments
    if isinstance(size, list | tuple) and size and size[0] == BATCH and "self" not in arguments:
        return {**arguments, "size": [1, *size[1:]]}
    return arguments


def _known(target: torch._ops.OpOverload, arguments: dict[str, Any], where: str) -> Any:
    """The result of an operator on known values; connected to trained parameters only where it views them."""
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise UnsupportedModel(f"{where}: is random; a certificate needs a network that always answers alike")
    tensors = [leaf for leaf in _leaves(arguments) if isinstance(leaf, Tensor)]
    if not tensors and target._schema.name.split("::")[-1] not in _CREATING:
        raise UnsupportedModel(f"{where}: {advice(target._schema.name.split('::')[-1])}")
    schema = target._schema.arguments
    if target._schema.is_mutable:
        copied = next(a.name for a in schema if a.alias_info is not None and a.alias_info.is_write)
        arguments = {**arguments, copied: arguments[copied].detach().clone()}
    positional = [arguments.get(a.name, a.default_value) for a in schema if not a.kwarg_only]
    keywords = {a.name: arguments[a.name] for a in schema if a.kwarg_only and a.name in arguments}
    _check_size(target, positional, keywords, where)
    with torch.enable_grad():
        result = target(*positional, **keywords)
    storages = {t.untyped_storage().data_ptr() for t in tensors}
    return _mapped(result, lambda t: _view_or_copy(t, storages))


_CREATING = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})


def _check_size(target: torch._ops.OpOverload, positional: list[Any], keywords: dict[str, Any], where: str) -> None:
    """Refuses a result that would fill the memory; where torch cannot foresee the shape, the inputs bound it."""
    onto_meta = {**keywords, "device": "meta"} if "device" in {a.name for a in target._schema.arguments} else keywords
    try:
        result = target(*_mapped(positional, _without_storage), **_mapped(onto_meta, _without_storage))
    except (NotImplementedError, RuntimeError):
        return
    if any(isinstance(leaf, Tensor) and leaf.numel() > LARGEST for leaf in _leaves(result)):
        raise UnsupportedModel(f"{where}: its result is more than llcert can hold")


def _without_storage(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _view_or_copy(leaf: Any, storages: set[int]) -> Any:
    if not isinstance(leaf, Tensor) or leaf.untyped_storage().data_ptr() in storages:
        return leaf
    return leaf.detach()


def _detached(output: Node, parameters: Sequence[Tensor]) -> Node:
    """The same nodes; a tensor that was computed from parameters, and is none of them, is cut from their training."""
    storages = {p.untyped_storage().data_ptr() for p in parameters}
    new: dict[Node, Node] = {}
    for node in topological(output):
        stale = {
            name: tensor.detach()
            for name, tensor in node.op.tensors().items()
            if tensor.requires_grad and tensor.untyped_storage().data_ptr() not in storages
        }
        op = dataclasses.replace(node.op, **stale) if stale else node.op  # type: ignore[type-var]
        new[node] = dataclasses.replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
    return new[output]


def _named(result: Any, name: str, known: set[Node]) -> Any:
    """The new nodes behind a result under the name of the call."""
    if isinstance(result, tuple | list):
        return tuple(_named(r, name, known) for r in result)
    if not isinstance(result, Node) or result in known or result.name:
        return result
    return dataclasses.replace(result, name=name, inputs=tuple(_named(i, name, known) for i in result.inputs))


def _viewed(step: Step, value: Any, arguments: Mapping[str, Any]) -> str | None:
    """The name of the argument whose memory the result shares, by the schema or because it is the result."""
    for name, argument in step.arguments.items():
        first = next((leaf for leaf in _leaves(argument) if isinstance(leaf, Ref)), None)
        if first is None:
            continue
        if not isinstance(step.target, torch._ops.OpOverload) or arguments[name] is value:
            return first.name
        info = next((a.alias_info for a in step.target._schema.arguments if a.name == name), None)
        if info is not None and not info.is_write:
            return first.name
    return None


def _written(step: Step, where: str) -> str | None:
    """The name of the value an in-place operator writes to; None for operators that return what they compute."""
    if not isinstance(step.target, torch._ops.OpOverload) or not step.target._schema.is_mutable:
        return None
    for argument in step.target._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            target = step.arguments.get(argument.name)
            if isinstance(target, Ref) and step.kind.endswith("_"):
                return target.name
    raise UnsupportedModel(f"{where}: writes into its arguments; use the operator that returns its result")


def _name(step: Step) -> str:
    return step.output if isinstance(step.output, str) else next((n for n in step.output if n), step.kind)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    return change(value)


PYTHON: Mapping[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        operator.getitem,
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.truediv,
        operator.mod,
        operator.neg,
        operator.eq,
        operator.ne,
        operator.lt,
        operator.le,
        operator.gt,
        operator.ge,
        math.trunc,
        math.ceil,
        math.floor,
    )
}
"""The Python functions that traced graphs compute sizes with."""
