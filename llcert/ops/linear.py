"""Dense layers: one matrix applied along the last axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llcert.ir import LinearOp, Node, Shape, apply
from llcert.ops.affine import Affine
from llcert.ops.movement import Reshape, Transpose, reshaped
from llcert.ops.registry import Call, OnnxBuilder, Value, common_shape, from_onnx, from_torch_op, to_onnx


@dataclass(frozen=True)
class Linear(LinearOp):
    """`W x + b` along the last axis. weight: `[out, in]`; bias: `[out]` or None."""

    weight: Tensor
    bias: Tensor | None = None
    trainable = ("weight", "bias")
    roundings = 6  # the product, and five for a factor that a runtime folds into the weights

    def linear(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def transformed(self, entrywise: Callable[[Tensor], Tensor]) -> Linear:
        return Linear(entrywise(self.weight))

    @property
    def offset(self) -> Tensor | None:
        return self.bias

    def adjoint(self, y: Tensor, shape: Shape) -> Tensor:
        return y @ self.weight


@from_onnx("Gemm")
def read_gemm(call: Call) -> Node:
    alpha, beta = (torch.tensor(float(call.attributes[name]), dtype=torch.float64) for name in ("alpha", "beta"))
    a, b = (_factor(call, i, turned=bool(call.attributes[n])) for i, n in enumerate(("transA", "transB")))
    return _combined(call, times(call, a, b), call.constant(2), alpha=alpha, beta=beta)


def _factor(call: Call, index: int, *, turned: bool) -> Value:
    """A factor of Gemm, transposed where its attribute says so."""
    if isinstance(call.inputs[index], Node):
        node = call.node(index)
        return transposed(call, node) if turned else node
    matrix = _matrix(call, index)
    return matrix.T if turned else matrix


def _combined(call: Call, product: Node, addend: Tensor | None, *, alpha: Tensor, beta: Tensor) -> Node:
    """`alpha * product + beta * addend`.

    alpha stays out of the matrix of the product, which may overflow or vanish before it is scaled.
    """
    scale = None if bool(alpha == 1) else alpha
    if addend is None or bool(beta == 0):
        return product if scale is None else apply(Affine(scale=scale), product)
    shift = call.per_image(rounded_once(addend, beta), len(product.shape))
    if common_shape(product.shape, shift.shape) != product.shape:
        call.refuse(f"adds a constant of shape {tuple(shift.shape)} to a value of shape {product.shape}")
    return biased(product, shift) if scale is None else apply(Affine(scale, shift), product)


def rounded_once(constant: Tensor, factor: Tensor) -> Tensor:
    """`constant * factor` in the constant's own format where that is exact, else in float64 (lemma 1).

    Raises ValueError where a product is no normal number, though none of its factors is zero.
    """
    wide = constant.double() * factor.double()
    lost = (wide.abs() < torch.finfo(torch.float64).tiny) & (constant != 0) & (factor != 0)
    if bool(lost.any()):
        raise ValueError("a weight times a factor is too small for float64")
    narrow = wide.to(constant.dtype)
    return narrow if torch.equal(narrow.double(), wide) else wide


def biased(node: Node, shift: Tensor) -> Node:
    """`x + shift`, as the bias of a dense layer right in front that has none; elsewhere an Affine."""
    (source, *_) = node.inputs or (node,)
    if isinstance(node.op, Reshape) and isinstance(source.op, Linear) and len(source.shape) == 1:
        column = biased(source, shift.expand(node.shape).reshape(source.shape))
        return reshaped(column, node.shape) if isinstance(column.op, Linear) else apply(Affine(shift=shift), node)
    along_last = all(n == 1 for n in shift.shape[:-1]) and len(node.shape) > 0
    if isinstance(node.op, Linear) and node.op.bias is None and along_last:
        bias = shift if shift.shape == node.shape[-1:] else shift.flatten().expand(node.shape[-1])
        return apply(Linear(node.op.weight, bias), *node.inputs, name=node.name)
    return apply(Affine(shift=shift), node)


@from_onnx("MatMul")
def read_matmul(call: Call) -> Node:
    a, b = (v if isinstance(v, Node) else call.required(i) for i, v in enumerate(call.inputs))
    return times(call, a, b)


@from_torch_op("linear")
def read_torch_linear(call: Call) -> Node:
    return apply(Linear(_matrix(call, "weight"), call.constant("bias")), call.node("input"))


@from_torch_op("matmul", "mm", "bmm", "mv")
def read_torch_matmul(call: Call) -> Node:
    a, b = (
        call.attributes["self"],
        call.attributes.get("other", call.attributes.get("mat2", call.attributes.get("vec"))),
    )
    return times(call, a, b)


@from_torch_op("addmm", "addmv", "baddbmm")
def read_torch_addmm(call: Call) -> Node:
    """`beta * self + alpha * (a @ b)`."""
    a, b = (next(call.attributes[n] for n in names if n in call.attributes) for names in _FACTORS)
    alpha, beta = call.required("alpha"), call.required("beta")
    return _combined(call, times(call, a, b), call.required("self"), alpha=alpha, beta=beta)


_FACTORS = (("mat1", "mat", "batch1"), ("mat2", "vec", "batch2"))


def times(call: Call, a: Value, b: Value) -> Node:
    """`a @ b`, one of which must be known."""
    if isinstance(a, Node) and isinstance(b, Node):
        call.refuse("multiplies two values that both depend on the image (as attention does), which has no bound")
    if isinstance(a, Node) and isinstance(b, Tensor):
        return _times_right(call, a, b)
    if not isinstance(a, Tensor) or not isinstance(b, Node):
        call.refuse("multiplies nothing that depends on the image")
    return _times_left(call, a, b)


def _times_right(call: Call, node: Node, constant: Tensor) -> Node:
    """`x @ b` for a known b."""
    if constant.ndim == 1:
        product = apply(Linear(constant[None]), node)
        return reshaped(product, product.shape[:-1])
    return apply(Linear(_two_axes(call, constant).T), node)


def _times_left(call: Call, constant: Tensor, node: Node) -> Node:
    """`a @ x` for a known a: the columns of x are what the dense layer works on."""
    if len(node.shape) == 1:
        if call.batched:
            call.refuse("multiplies along the batch axis; put the constant on the right")
        product = apply(Linear(constant.reshape(-1, constant.shape[-1])), node)
        return reshaped(product, tuple(constant.shape[:-1]))
    matrix = constant[None] if constant.ndim == 1 else _two_axes(call, constant)
    if node.shape[-1] == 1:
        product = apply(Linear(matrix), reshaped(node, node.shape[:-1]))
        return reshaped(product, (*product.shape, 1) if constant.ndim > 1 else (*product.shape[:-1], 1))
    product = transposed(call, apply(Linear(matrix), transposed(call, node)))
    return product if constant.ndim > 1 else reshaped(product, (*product.shape[:-2], product.shape[-1]))


def _matrix(call: Call, index: int | str) -> Tensor:
    """A known input with two axes that matter."""
    return _two_axes(call, call.required(index))


def _two_axes(call: Call, constant: Tensor) -> Tensor:
    while constant.ndim > 2 and constant.shape[0] == 1:
        constant = constant[0]
    if constant.ndim != 2:
        call.refuse(f"multiplies by a constant of shape {tuple(constant.shape)}; llcert knows matrices")
    return constant


def transposed(call: Call, node: Node) -> Node:
    """The value with its last two axes exchanged."""
    rank = len(node.shape)
    if rank < 2:
        call.refuse("exchanges the batch axis with another; a certificate looks at one image at a time")
    return apply(Transpose((*range(rank - 2), rank - 1, rank - 2)), node)


@to_onnx(Linear)
def write_linear(op: Linear, builder: OnnxBuilder, inputs: Sequence[str], node: Node) -> str:
    if len(node.shape) == 1:
        constants = [builder.constant(t) for t in (op.weight, op.bias) if t is not None]
        return builder.add("Gemm", [*inputs, *constants], name=node.name, transB=1)
    product = builder.add("MatMul", [*inputs, builder.constant(op.weight.T)], name=node.name)
    if op.bias is None:
        return product
    return builder.add("Add", [product, builder.constant(op.bias)], name=node.name)
