"""Graphs of aten operators, from whichever torch door, made into nodes."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.advice import advice
from llcert.frontend.limits import Budget
from llcert.frontend.promotion import known, promoted
from llcert.frontend.torch_original import TorchOriginal
from llcert.ir import LARGEST, Input, Network, Node, apply, format_name, topological
from llcert.ir.batch_size import BATCH, BatchSize, DependsOnBatch, Size
from llcert.ops.cast import cast
from llcert.passes import canonicalise, check_legal, notes_of, strip_head
from llcert.registry import Call, ForEveryImage, Importer, Sizes, torch_importers


@dataclass(frozen=True)
class Ref:
    """A value of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator call of a traced graph.

    target: an aten overload, or a Python function of integers, lists and tuples. arguments: by name in the schema,
    or by position for a Python function; values of the graph stand as Refs, also inside lists. output: one name, or
    one for each result. hint: where in the user's model the call comes from. dtype: of a single result, as traced.
    """

    target: torch._ops.OpOverload | Callable[..., Any]
    arguments: Mapping[str, Any]
    output: str | tuple[str | None, ...]
    hint: str = ""
    dtype: torch.dtype | None = None

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
    """A torch graph with one image input. batch: the number of images it was written for, None for any number."""

    known: Mapping[str, Tensor]
    image: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int | None
    steps: tuple[Step, ...]
    output: str
    source: str


def network(traced: Traced, answer: Callable[[Tensor], Any], runtime: str) -> Network:
    """The classifier a torch graph computes, canonical and legal; it has not been compared with torch yet.

    answer: what torch itself makes of a batch of images. runtime: what messages call it. Raises UnsupportedModel naming
    the operator, the node and what would help.
    """
    if any(size < 1 for size in traced.shape):
        raise UnsupportedModel(f"{traced.source}: the input shape {traced.shape} holds no values")
    if traced.dtype not in (torch.float32, torch.float64):
        raise UnsupportedModel(f"{traced.source}: its input is {traced.dtype}; llcert certifies float32 and float64")
    walk = _Walk(traced)
    output = walk.output()
    literal, notes = _detached(output, tuple(traced.known.values()))
    logits, heads = strip_head(canonicalise(literal))
    logits = canonicalise(logits)
    check_legal(logits, traced.source)
    original = TorchOriginal(
        runtime=runtime,
        computes=traced.dtype,
        batch=traced.batch,
        classes=logits.shape[0],
        source=traced.source,
        shape=traced.shape,
        answer=answer,
        inner=partial(interpreted, replace(traced, output=walk.name_of_logits(output))) if heads else None,
    )
    return Network(
        logits,
        input_name=traced.image,
        notes=(*notes, *notes_of(heads)),
        source=traced.source,
        heads=(heads,),
        original=original,
    )


def interpreted(traced: Traced, images: Tensor) -> Tensor:
    """What torch's own operators, called one after the other, make of a batch of images."""
    values: dict[str, Any] = {name: tensor.detach().clone() for name, tensor in traced.known.items()}
    values[traced.image] = images
    for step in traced.steps:
        arguments = _mapped(step.arguments, lambda leaf: values[leaf.name] if isinstance(leaf, Ref) else leaf)
        if isinstance(step.target, torch._ops.OpOverload):
            positional, keywords = _passed(step.target, arguments)
            result = step.target(*positional, **keywords)
        else:
            result = step.target(*arguments.values())
        if isinstance(step.output, str):
            values[step.output] = result
        else:
            results = result if isinstance(result, tuple | list) else (result,)
            values.update({n: r for n, r in zip(step.output, results, strict=False) if n is not None})
    logits: Tensor = values[traced.output]
    return logits


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
        self.cells[traced.image] = _Cell(apply(Input(traced.shape, traced.dtype), name=traced.image))
        self.budget = Budget(sum(value.numel() for value in traced.known.values()))
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

    def name_of_logits(self, output: Node) -> str:
        """The name in the graph of what is left of the output without its head, or of what that is a Reshape of."""
        node, _ = strip_head(output)
        names = {cell.value: name for name, cell in self.cells.items() if isinstance(cell.value, Node)}
        while node not in names and len(node.inputs) == 1:
            (node,) = node.inputs
        if node not in names:
            raise UnsupportedModel(
                f"{self.traced.source}: its logits are no value of its own; leave out the last operator"
            )
        return names[node]

    def _take(self, index: int, step: Step) -> None:
        where = f"{self.traced.source}: {step.kind} ({', '.join(filter(None, (_name(step), step.hint)))})"
        arguments = _mapped(step.arguments, lambda leaf: self._value(leaf.name) if isinstance(leaf, Ref) else leaf)
        written = _written(step, where)
        try:
            value = self._computed(step, arguments, where)
        except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
            raise UnsupportedModel(f"{where}: cannot be computed: {first_line(error)}") from error
        self.budget.spend((leaf for leaf in _leaves(value) if isinstance(leaf, Node)), where)
        if written is not None:
            self._write(index, step, written, value, where)
        else:
            self._store(step, value, arguments)

    def _computed(self, step: Step, arguments: dict[str, Any], where: str) -> Any:
        if not isinstance(step.target, torch._ops.OpOverload):
            return _plain(step.target, list(arguments.values()), where)
        kind = step.kind.removesuffix("_") if _written(step, where) else step.kind
        if kind in _CHECKS:
            return None
        if kind == "sym_size":
            return _size(arguments)
        if kind in _FILLED or (kind == "expand" and isinstance(arguments.get("self"), Tensor)):
            arguments, repeated = _one_row(arguments)
            if repeated:
                return ForEveryImage(_known(step.target, arguments, where))
        if not any(isinstance(leaf, Node) for leaf in _leaves(arguments)):
            if any(isinstance(leaf, ForEveryImage) for leaf in _leaves(arguments)):
                return _of_every_image(kind, step.target, arguments, where)
            return _known(step.target, arguments, where)
        importer: Importer | None = torch_importers.get(kind)
        if importer is None:
            raise UnsupportedModel(f"{where}: {advice(kind)}")
        own = next(leaf for leaf in _leaves(arguments) if isinstance(leaf, Node | Tensor))
        arguments, dtype = promoted(kind, arguments, where)
        attributes = self._attributes(step.target, arguments, dtype)
        nodes = [leaf for leaf in _leaves(arguments) if isinstance(leaf, Node)]
        call = Call(kind, where, 0, (), attributes, batch=self.traced.batch or 1)
        result = _named(importer(call), _name(step), known=set(nodes))
        if kind != step.kind and isinstance(result, Node):  # written in place, in the format that was there
            result = cast(result, known(own.dtype, where))
        _check_format(step, result, where)
        if not isinstance(result, tuple) or len(step.target._schema.returns) <= len(result):
            return result
        return (*result, *[_UNKNOWN] * (len(step.target._schema.returns) - len(result)))

    def _attributes(
        self, target: torch._ops.OpOverload, arguments: dict[str, Any], dtype: torch.dtype
    ) -> dict[str, Any]:
        """Every argument of the schema; numbers where a tensor or a scalar may stand become tensors of the format the
        operator computes in, as torch rounds them."""
        attributes: dict[str, Any] = {}
        for argument in target._schema.arguments:
            value = arguments.get(argument.name, argument.default_value)
            exact = isinstance(value, int | float) and not isinstance(value, bool)
            if exact and str(argument.type).removeprefix("Optional[").rstrip("]") in ("Tensor", "number"):
                value = torch.tensor(value, dtype=dtype)
            attributes[argument.name] = Sizes((value,)) if isinstance(value, BatchSize) else value
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
_FILLED = frozenset(
    {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
)
"""Operators that ask an image-dependent value for its shape alone, and give every image of a batch the same."""


def _size(arguments: Mapping[str, Any]) -> Size:
    value, axis = arguments["self"], int(arguments["dim"])
    if isinstance(value, Tensor):
        return value.shape[axis]
    sizes: tuple[Size, ...] = (BATCH, *(value.image.shape[1:] if isinstance(value, ForEveryImage) else value.shape))
    return sizes[axis]


def _plain(function: Callable[..., Any], arguments: list[Any], where: str) -> Any:
    """The result of a Python function of sizes, or one of several results."""
    if function is operator.getitem:
        return function(*arguments)
    result = function(*arguments) if all(isinstance(a, int | float | BatchSize) for a in arguments) else None
    if not isinstance(result, BatchSize) and (result is None or not abs(result) < 2**63):
        raise UnsupportedModel(f"{where}: computes no size that fits a tensor")
    return result


def _one_row(arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The arguments of an operator that fills or expands a tensor, for one image, and whether it did so for each."""
    changed, repeated = dict(arguments), False
    value, size = arguments.get("self"), arguments.get("size")
    if isinstance(value, Node):
        changed["self"], repeated = torch.zeros(1, *value.shape, dtype=value.dtype), size is None
    if isinstance(value, ForEveryImage):
        changed["self"], repeated = value.image, size is None
    if size and isinstance(size[0], BatchSize):
        if size[0] != BATCH or (isinstance(value, Tensor) and value.ndim == len(size) and len(value) != 1):
            raise DependsOnBatch
        changed["size"], repeated = [1, *size[1:]], True
    return changed, repeated


def _of_every_image(kind: str, target: torch._ops.OpOverload, arguments: dict[str, Any], where: str) -> ForEveryImage:
    """The result of an operator on constants with a batch axis, entry by entry."""
    rank = max(leaf.image.ndim for leaf in _leaves(arguments) if isinstance(leaf, ForEveryImage))
    others = [leaf for leaf in _leaves(arguments) if isinstance(leaf, Tensor)]
    if kind not in _ENTRY_BY_ENTRY or any(t.ndim > rank or (t.ndim == rank and len(t) > 1) for t in others):
        raise UnsupportedModel(
            f"{where}: computes with a constant that every image of a batch has; llcert knows sums, products and casts "
            "of such, and values of the image to add it to or put it beside"
        )
    plain = _mapped(arguments, lambda leaf: leaf.image if isinstance(leaf, ForEveryImage) else leaf)
    return ForEveryImage(_known(target, plain, where))


_ENTRY_BY_ENTRY = frozenset({"add", "sub", "mul", "div", "neg", "to", "_to_copy", "clone", "detach", "alias"})


def _known(target: torch._ops.OpOverload, arguments: dict[str, Any], where: str) -> Any:
    """The result of an operator on known values, connected to the parameters it was computed from."""
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise UnsupportedModel(f"{where}: is random; a certificate needs a network that always answers alike")
    tensors = [leaf for leaf in _leaves(arguments) if isinstance(leaf, Tensor)]
    if any(isinstance(leaf, BatchSize) for leaf in _leaves(arguments)):
        raise UnsupportedModel(f"{where}: {DependsOnBatch()}")
    if not tensors and target._schema.name.split("::")[-1] not in _CREATING:
        raise UnsupportedModel(f"{where}: {advice(target._schema.name.split('::')[-1])}")
    schema = target._schema.arguments
    if target._schema.is_mutable:
        copied = next(a.name for a in schema if a.alias_info is not None and a.alias_info.is_write)
        arguments = {**arguments, copied: arguments[copied].detach().clone()}
    positional, keywords = _passed(target, arguments)
    _check_size(target, positional, keywords, where)
    with torch.enable_grad():
        return target(*positional, **keywords)


def _passed(target: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name as a call takes them: positions first."""
    schema = target._schema.arguments
    positional = [arguments.get(a.name, a.default_value) for a in schema if not a.kwarg_only]
    return positional, {a.name: arguments[a.name] for a in schema if a.kwarg_only and a.name in arguments}


_CREATING = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})


def _check_size(target: torch._ops.OpOverload, positional: list[Any], keywords: dict[str, Any], where: str) -> None:
    """Refuses a result that would fill the memory; where torch cannot foresee the shape, the inputs bound it."""
    onto_meta = {**keywords, "device": "meta"} if "device" in {a.name for a in target._schema.arguments} else keywords
    try:
        result = target(*_mapped(positional, _without_storage), **_mapped(onto_meta, _without_storage))
    except (NotImplementedError, RuntimeError):
        return
    if any(isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > 8 * LARGEST for leaf in _leaves(result)):
        raise UnsupportedModel(f"{where}: its result is more than llcert can hold")


def _without_storage(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf


def _detached(output: Node, parameters: Sequence[Tensor]) -> tuple[Node, tuple[str, ...]]:
    """The same nodes, with tensors that were computed from parameters cut from their training; a note where any was."""
    storages = {p.untyped_storage().data_ptr() for p in parameters}
    new: dict[Node, Node] = {}
    cut: list[str] = []
    for node in topological(output):
        stale = {
            name: tensor.detach()
            for name, tensor in node.op.tensors().items()
            if tensor.requires_grad and tensor.untyped_storage().data_ptr() not in storages
        }
        op = dataclasses.replace(node.op, **stale) if stale else node.op  # type: ignore[type-var]
        new[node] = dataclasses.replace(node, op=op, inputs=tuple(new[i] for i in node.inputs))
        cut.extend(node.name for _ in stale)
    note = f"weights of {', '.join(dict.fromkeys(cut))} were computed from parameters; training will not reach those"
    return new[output], (note,) if cut else ()


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


def _check_format(step: Step, result: Any, where: str) -> None:
    """Nothing, where a value has the number format that the graph says; raises UnsupportedModel elsewhere."""
    stated = step.dtype
    if isinstance(result, Node) and stated is not None and stated.is_floating_point and stated != result.dtype:
        raise UnsupportedModel(
            f"{where}: is {format_name(stated)} by the graph, and {format_name(result.dtype)} as torch computes it"
        )


def _name(step: Step) -> str:
    return step.output if isinstance(step.output, str) else next((n for n in step.output if n), step.kind)


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one short line."""
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
