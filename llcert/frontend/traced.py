"""Graphs of aten operators, from whichever torch door, made into nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
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
from llcert.frontend.traced_calls import (
    constant_result,
    of_every_image,
    one_row,
    python_result,
    schema_arguments,
    size_of,
)
from llcert.frontend.traced_graph import Ref, Step, Traced, first_line, leaves, mapped, step_name
from llcert.ir import Input, Network, Node, apply, format_name, topological
from llcert.ir.batch_size import BatchSize
from llcert.ops.cast import cast
from llcert.ops.registry import Call, ForEveryImage, Importer, Sizes, torch_importers
from llcert.passes import canonicalise, check_legal, notes_of, strip_head


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
        arguments = mapped(step.arguments, lambda leaf: values[leaf.name] if isinstance(leaf, Ref) else leaf)
        if isinstance(step.target, torch._ops.OpOverload):
            positional, keywords = schema_arguments(step.target, arguments)
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
        where = f"{self.traced.source}: {step.kind} ({', '.join(filter(None, (step_name(step), step.hint)))})"
        arguments = mapped(step.arguments, lambda leaf: self._value(leaf.name) if isinstance(leaf, Ref) else leaf)
        written = _written(step, where)
        try:
            value = self._computed(step, arguments, where)
        except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
            raise UnsupportedModel(f"{where}: cannot be computed: {first_line(error)}") from error
        self.budget.spend((leaf for leaf in leaves(value) if isinstance(leaf, Node)), where)
        if written is not None:
            self._write(index, step, written, value, where)
        else:
            self._store(step, value, arguments)

    def _computed(self, step: Step, arguments: dict[str, Any], where: str) -> Any:
        if not isinstance(step.target, torch._ops.OpOverload):
            return python_result(step.target, list(arguments.values()), where)
        kind = step.kind.removesuffix("_") if _written(step, where) else step.kind
        if kind in _CHECKS:
            return None
        if kind == "sym_size":
            return size_of(arguments)
        if kind in _FILLED or (kind == "expand" and isinstance(arguments.get("self"), Tensor)):
            arguments, repeated = one_row(arguments)
            if repeated:
                return ForEveryImage(constant_result(step.target, arguments, where))
        if not any(isinstance(leaf, Node) for leaf in leaves(arguments)):
            if any(isinstance(leaf, ForEveryImage) for leaf in leaves(arguments)):
                return of_every_image(kind, step.target, arguments, where)
            return constant_result(step.target, arguments, where)
        importer: Importer | None = torch_importers.get(kind)
        if importer is None:
            raise UnsupportedModel(f"{where}: {advice(kind)}")
        own = next(leaf for leaf in leaves(arguments) if isinstance(leaf, Node | Tensor))
        arguments, dtype = promoted(kind, arguments, where)
        attributes = self._attributes(step.target, arguments, dtype)
        nodes = [leaf for leaf in leaves(arguments) if isinstance(leaf, Node)]
        call = Call(kind, where, 0, (), attributes, batch=self.traced.batch or 1)
        result = _named(importer(call), step_name(step), known=set(nodes))
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
        first = next((leaf for leaf in leaves(argument) if isinstance(leaf, Ref)), None)
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
