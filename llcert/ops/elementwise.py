"""Sums, products, minima and maxima, entry by entry, of values and constants: what both doors make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from llcert.ir import Node, Shape, apply
from llcert.ops.affine import Affine
from llcert.ops.clamp import Clamp
from llcert.ops.divide import quotient
from llcert.ops.join import Add
from llcert.ops.linear import biased, rounded_once
from llcert.ops.maxmin import Extreme, torch_reduced
from llcert.ops.movement import Expand
from llcert.ops.reduce import rescaled
from llcert.ops.registry import Call, Value, common_shape, from_onnx, from_torch_op

PRODUCT = (
    "{} two values that both depend on the image is not globally Lipschitz; "
    "certify the part of the network before it, or replace the layer (ReLU, MaxMin and GroupSort are supported)"
)


def add(call: Call, terms: Sequence[Value]) -> Node:
    """The sum of values and constants, at least one of which depends on the image."""
    nodes = [t for t in terms if isinstance(t, Node)]
    shifts = [t for t in terms if isinstance(t, Tensor)]
    total = nodes[0] if len(nodes) == 1 else apply(Add(), *broadcast(call, nodes))
    return reduce(lambda node, shift: shifted(call, node, shift), shifts, total)


def subtract(call: Call, a: Value, b: Value) -> Node:
    """`a - b`, at least one of which depends on the image."""
    if isinstance(b, Tensor):
        return add(call, (a, -floating(b)))
    negative = negate(b)
    if isinstance(a, Tensor):
        return shifted(call, negative, a)
    return add(call, (a, negative))


def multiply(call: Call, a: Value, b: Value) -> Node:
    """`a * b`, one of which must be a constant."""
    node, factor = (a, b) if isinstance(a, Node) else (b, a)
    if not isinstance(node, Node) or not isinstance(factor, Tensor):
        call.refuse(PRODUCT.format("multiplying"))
    return scaled(call, node, factor)


def divide(call: Call, a: Value, b: Value) -> Node:
    """`a / b`, where b must be a constant without zeros."""
    if not isinstance(b, Tensor):
        call.refuse(PRODUCT.format("dividing by") if isinstance(a, Node) else "divides by a value of the image")
    if not isinstance(a, Node) or bool((b == 0).any()):
        call.refuse("divides by zero; the constants of the model are broken")
    return divided(call, a, b)


def negate(node: Node) -> Node:
    """`-x`."""
    return apply(Affine(scale=torch.tensor(-1.0)), node)


def extreme(call: Call, terms: Sequence[Value], *, largest: bool) -> Node:
    """The maximum or minimum of values and constants, at least one of which depends on the image."""

    def of_two(a: Node, b: Node) -> Node:
        return apply(Extreme(largest), *broadcast(call, (a, b)))

    def with_constant(node: Node, bound: Tensor) -> Node:
        node, bound = aligned(call, node, bound)
        return apply(Clamp(low=bound) if largest else Clamp(high=bound), node)

    node = reduce(of_two, (t for t in terms if isinstance(t, Node)))
    return reduce(with_constant, (t for t in terms if isinstance(t, Tensor)), node)


def shifted(call: Call, node: Node, shift: Tensor) -> Node:
    """`x + shift`; becomes the bias of a dense layer, or the shift of a scaling, where that stands right in front."""
    node, shift = aligned(call, node, shift)
    if isinstance(node.op, Affine) and node.op.shift is None:
        return apply(replace(node.op, shift=shift), *node.inputs, name=node.name)
    return biased(node, shift)


def scaled(call: Call, node: Node, scale: Tensor) -> Node:
    """`x * scale`."""
    node, scale = aligned(call, node, scale)
    alone = scale.numel() == 1 and not scale.requires_grad
    return (rescaled(node, float(scale)) if alone else None) or apply(Affine(scale=scale), node)


def divided(call: Call, node: Node, divisor: Tensor) -> Node:
    """`x / divisor`, as real numbers; an average where a sum is divided by one number."""
    node, divisor = aligned(call, node, divisor)
    alone = divisor.numel() == 1 and not divisor.requires_grad
    try:
        return (rescaled(node, 1 / float(divisor)) if alone else None) or quotient(node, divisor)
    except (ValueError, ZeroDivisionError) as error:
        call.refuse(f"{error}; rescale the layer")


def aligned(call: Call, node: Node, constant: Tensor) -> tuple[Node, Tensor]:
    """A value and a constant that meet entry by entry: the constant per image, the value expanded to their shape."""
    constant = floating(call.per_image(constant, len(node.shape)))
    return expanded(node, meeting(call, (node.shape, tuple(constant.shape)))), constant


def broadcast(call: Call, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Values that meet entry by entry, each expanded to their common shape."""
    if call.batched and len({len(n.shape) for n in nodes}) > 1:
        call.refuse(f"values of shapes {', '.join(str(n.shape) for n in nodes)} would meet across the batch axis")
    shape = meeting(call, [n.shape for n in nodes])
    return tuple(expanded(n, shape) for n in nodes)


def meeting(call: Call, shapes: Sequence[Shape]) -> Shape:
    """The shape that all the given ones broadcast to; refuses where there is none."""
    try:
        return common_shape(*shapes)
    except ValueError:
        call.refuse(f"shapes {', '.join(str(tuple(s)) for s in shapes)} (without batch axis) do not fit together")


def expanded(node: Node, shape: Shape) -> Node:
    """The value broadcast to a shape, where it does not have it yet."""
    return node if node.shape == shape else apply(Expand(shape), node)


def floating(constant: Tensor) -> Tensor:
    """A constant as floating-point numbers."""
    return constant if constant.is_floating_point() else constant.to(torch.float64)


def present(call: Call) -> list[Value]:
    """Every input of the call; refuses where one was left out."""
    if not call.inputs:
        call.refuse("an input is missing")
    return call.meeting(call.inputs)


@from_onnx("Add", "Sum")
def read_sum(call: Call) -> Node:
    return add(call, present(call))


@from_onnx("Mean")
def read_mean(call: Call) -> Node:
    terms = present(call)
    return divided(call, add(call, terms), torch.tensor(float(len(terms))))


def _binary(combine: Callable[[Call, Value, Value], Node]) -> Callable[[Call], Node]:
    def read(call: Call) -> Node:
        a, b = present(call)
        return combine(call, a, b)

    return read


from_onnx("Sub")(_binary(subtract))
from_onnx("Mul")(_binary(multiply))
from_onnx("Div")(_binary(divide))


@from_onnx("Neg")
def read_negation(call: Call) -> Node:
    return negate(call.node(0))


@from_onnx("Max", "Min")
def read_extreme(call: Call) -> Node:
    return extreme(call, present(call), largest=call.kind == "Max")


@from_torch_op("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide")
def read_arithmetic(call: Call) -> Node:
    a, b = call.meeting((call.attributes["self"], call.attributes["other"]))
    alpha = call.constant("alpha")
    if alpha is not None and bool(alpha != 1):
        a, b = (_times(call, a, alpha), b) if call.kind == "rsub" else (a, _times(call, b, alpha))
    match call.kind:
        case "add":
            return add(call, (a, b))
        case "sub" | "subtract":
            return subtract(call, a, b)
        case "rsub":
            return subtract(call, b, a)
        case "mul" | "multiply":
            return multiply(call, a, b)
    if call.attributes.get("rounding_mode") is not None:
        call.refuse("rounds its result, which makes it a step function; divide without rounding_mode")
    return divide(call, a, b)


def _times(call: Call, value: Value, factor: Tensor) -> Value:
    """Whatever is subtracted or added, times the `alpha` of torch."""
    return scaled(call, value, factor) if isinstance(value, Node) else rounded_once(value, factor)


@from_torch_op("neg", "negative")
def read_negative(call: Call) -> Node:
    return negate(call.node("self"))


@from_torch_op("maximum", "minimum", "clamp_min", "clamp_max")
def read_larger_or_smaller(call: Call) -> Node:
    bound = next(call.attributes[name] for name in ("other", "min", "max") if name in call.attributes)
    largest = call.kind in ("maximum", "clamp_min")
    return extreme(call, call.meeting((call.attributes["self"], bound)), largest=largest)


@from_torch_op("clamp", "clip", "hardtanh")
def read_clamp(call: Call) -> Node:
    low, high = (call.attributes.get(name, call.attributes.get(f"{name}_val")) for name in ("min", "max"))
    result = call.attributes["self"]
    for bound, largest in ((low, True), (high, False)):
        if bound is not None:
            result = extreme(call, call.meeting((result, bound)), largest=largest)
    return result if isinstance(result, Node) else call.refuse("its bounds depend on the image and its value does not")


@from_torch_op("threshold")
def read_threshold(call: Call) -> Node:
    if not torch.equal(call.required("threshold"), call.required("value")):
        call.refuse("jumps at its threshold; only a value equal to the threshold makes it continuous")
    return extreme(call, (call.node("self"), call.required("threshold")), largest=True)


@from_torch_op("max", "min")
def read_torch_extreme(call: Call) -> Node | tuple[Node, ...]:
    """`max(a, b)`, or the values of `max(a, dim)`, the first of two results."""
    if "other" in call.attributes:
        terms = call.meeting((call.attributes["self"], call.attributes["other"]))
        return extreme(call, terms, largest=call.kind == "max")
    if "dim" not in call.attributes:
        call.refuse("looks at all images of the batch at once; name the axes")
    return (torch_reduced(call, (int(call.attributes["dim"]),), largest=call.kind == "max"),)
