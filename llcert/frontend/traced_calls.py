"""Calls of torch that do not depend on the image, or in the same way for every image."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llcert.errors import UnsupportedModel
from llcert.frontend.advice import advice
from llcert.frontend.traced_graph import leaves, mapped
from llcert.ir import LARGEST, Node
from llcert.ir.batch_size import BATCH, BatchSize, DependsOnBatch, Size
from llcert.ops.registry import ForEveryImage


def size_of(arguments: Mapping[str, Any]) -> Size:
    value, axis = arguments["self"], int(arguments["dim"])
    if isinstance(value, Tensor):
        return value.shape[axis]
    sizes: tuple[Size, ...] = (BATCH, *(value.image.shape[1:] if isinstance(value, ForEveryImage) else value.shape))
    return sizes[axis]


def python_result(function: Callable[..., Any], arguments: list[Any], where: str) -> Any:
    """The result of a Python function of sizes, or one of several results."""
    if function is operator.getitem:
        return function(*arguments)
    result = function(*arguments) if all(isinstance(a, int | float | BatchSize) for a in arguments) else None
    if not isinstance(result, BatchSize) and (result is None or not abs(result) < 2**63):
        raise UnsupportedModel(f"{where}: computes no size that fits a tensor")
    return result


def one_row(arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
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


def of_every_image(kind: str, target: torch._ops.OpOverload, arguments: dict[str, Any], where: str) -> ForEveryImage:
    """The result of an operator on constants with a batch axis, entry by entry."""
    rank = max(leaf.image.ndim for leaf in leaves(arguments) if isinstance(leaf, ForEveryImage))
    others = [leaf for leaf in leaves(arguments) if isinstance(leaf, Tensor)]
    if kind not in _ENTRY_BY_ENTRY or any(t.ndim > rank or (t.ndim == rank and len(t) > 1) for t in others):
        raise UnsupportedModel(
            f"{where}: computes with a constant that every image of a batch has; llcert knows sums, products and casts "
            "of such, and values of the image to add it to or put it beside"
        )
    plain = mapped(arguments, lambda leaf: leaf.image if isinstance(leaf, ForEveryImage) else leaf)
    return ForEveryImage(constant_result(target, plain, where))


_ENTRY_BY_ENTRY = frozenset({"add", "sub", "mul", "div", "neg", "to", "_to_copy", "clone", "detach", "alias"})


def constant_result(target: torch._ops.OpOverload, arguments: dict[str, Any], where: str) -> Any:
    """The result of an operator on known values, connected to the parameters it was computed from."""
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise UnsupportedModel(f"{where}: is random; a certificate needs a network that always answers alike")
    tensors = [leaf for leaf in leaves(arguments) if isinstance(leaf, Tensor)]
    if any(isinstance(leaf, BatchSize) for leaf in leaves(arguments)):
        raise UnsupportedModel(f"{where}: {DependsOnBatch()}")
    if not tensors and target._schema.name.split("::")[-1] not in _CREATING:
        raise UnsupportedModel(f"{where}: {advice(target._schema.name.split('::')[-1])}")
    schema = target._schema.arguments
    if target._schema.is_mutable:
        copied = next(a.name for a in schema if a.alias_info is not None and a.alias_info.is_write)
        arguments = {**arguments, copied: arguments[copied].detach().clone()}
    positional, keywords = schema_arguments(target, arguments)
    _check_size(target, positional, keywords, where)
    with torch.enable_grad():
        return target(*positional, **keywords)


def schema_arguments(target: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by name as a call takes them: positions first."""
    schema = target._schema.arguments
    positional = [arguments.get(a.name, a.default_value) for a in schema if not a.kwarg_only]
    return positional, {a.name: arguments[a.name] for a in schema if a.kwarg_only and a.name in arguments}


_CREATING = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})


def _check_size(target: torch._ops.OpOverload, positional: list[Any], keywords: dict[str, Any], where: str) -> None:
    """Refuses a result that would fill the memory; where torch cannot foresee the shape, the inputs bound it."""
    onto_meta = {**keywords, "device": "meta"} if "device" in {a.name for a in target._schema.arguments} else keywords
    try:
        result = target(*mapped(positional, _without_storage), **mapped(onto_meta, _without_storage))
    except (NotImplementedError, RuntimeError):
        return
    if any(isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > 8 * LARGEST for leaf in leaves(result)):
        raise UnsupportedModel(f"{where}: its result is more than llcert can hold")


def _without_storage(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, Tensor) else leaf
