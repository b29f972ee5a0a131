"""Values of an ONNX graph that do not depend on the image: computed at once, as the runtime computes them, within
limits on their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx

from llcert.errors import UnsupportedModel
from llcert.frontend.constants import Constant, Repeated, SymbolicSizes, line_of
from llcert.frontend.limits import entries_of_results
from llcert.frontend.rule_inputs import Array
from llcert.frontend.rules import rule_for
from llcert.frontend.runtime import onnxruntime, run_node
from llcert.frontend.symbols import filled, moved, of_every_image, own_attributes
from llcert.ir import LARGEST

_SMALL = 2**22
_GROWTH = 4
"""A computed constant holds at most this many times the entries of all initialisers (at least `_SMALL`, at most
`LARGEST`); all of them together as many times that."""

_STORED = "for weights of this size; store it in the file (constant folding at export)"

T = TypeVar("T")


@dataclass
class ConstantFolder:
    """Computes nodes whose inputs are all known; remembers how much it has computed.

    held: the entries of all initialisers of the file, which is what decides how large a computed constant may be.
    """

    opset: int
    held: int
    spent: int = field(default=0)

    @property
    def allowed(self) -> int:
        """The most entries one computed constant may have."""
        return min(max(_GROWTH * self.held, _SMALL), LARGEST)

    def compute(self, node: onnx.NodeProto, inputs: Sequence[Constant | None], where: str) -> tuple[Constant, ...]:
        """Every output of one node; raises UnsupportedModel where it cannot or should not be computed."""

        def plain(node: onnx.NodeProto, arrays: Sequence[Array]) -> Array:
            return self._evaluated(node, arrays, where)[0]

        if any(isinstance(v, Repeated) for v in inputs):
            return (_told(where, lambda: of_every_image(node, inputs, where, plain)),)
        if any(isinstance(v, SymbolicSizes) for v in inputs):
            made = _told(where, lambda: filled(node, inputs, plain))
            return _told(where, lambda: moved(node, inputs, where)) if made is None else (made,)
        return self._evaluated(node, [None if v is None else np.asarray(v) for v in inputs], where)

    def _evaluated(self, node: onnx.NodeProto, arrays: Sequence[Array | None], where: str) -> tuple[Array, ...]:
        """By a rule that every runtime follows to the last bit, where there is one; else by onnxruntime itself."""
        self._check_size(node, arrays, where)
        rule = rule_for(node.op_type, [a.dtype for a in arrays if a is not None])
        if rule is None:
            outputs: Sequence[Array] = _by_runtime(node, arrays, self.opset, where)
        else:
            outputs = _told(where, lambda: rule(own_attributes(node, where), arrays))
        self.spent += sum(o.size for o in outputs)
        if self.spent > _GROWTH * self.allowed:
            raise UnsupportedModel(
                f"{where}: the constants that the model computes have {self.spent:,} entries together, more than the "
                f"{_GROWTH * self.allowed:,} llcert allows {_STORED}"
            )
        return tuple(np.asarray(o) for o in outputs)

    def _check_size(self, node: onnx.NodeProto, arrays: Sequence[Array | None], where: str) -> None:
        try:
            size = entries_of_results(node, arrays)
        except (ValueError, IndexError, TypeError, ArithmeticError) as error:
            raise UnsupportedModel(f"{where}: its constant inputs do not fit it ({line_of(error)})") from None
        if size is None:
            raise UnsupportedModel(f"{where}: llcert does not compute constants with this operator")
        if not size <= self.allowed:
            raise UnsupportedModel(
                f"{where}: computes a constant of {size} entries, more than the {self.allowed:,} llcert allows "
                f"{_STORED}"
            )


def _told(where: str, compute: Callable[[], T]) -> T:
    """What is computed; what stops it names the node."""
    try:
        return compute()
    except (ValueError, IndexError, TypeError, KeyError, ArithmeticError) as error:
        raise UnsupportedModel(f"{where}: cannot be computed from its constants ({line_of(error)})") from None


def _by_runtime(node: onnx.NodeProto, arrays: Sequence[Array | None], opset: int, where: str) -> list[Array]:
    """By onnxruntime's own kernel."""
    if onnxruntime() is None:
        raise UnsupportedModel(
            f"{where}: runtimes differ in how they round this; llcert leaves it to onnxruntime, which is not installed"
        )
    try:
        _check_operands(node, arrays)
        inputs = {n: a for n, a in zip(node.input, arrays, strict=True) if a is not None}
        return run_node(node, inputs, opset)
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise UnsupportedModel(f"{where}: cannot be computed from its constants ({line_of(error)})") from None


def _check_operands(node: onnx.NodeProto, arrays: Sequence[Array | None]) -> None:
    """Raises where whole numbers would end the process, or mean what each processor makes of it."""
    operand = arrays[1] if len(arrays) > 1 else None
    if operand is None:
        return
    if node.op_type == "Mod" and operand.dtype.kind == "i" and bool((operand == -1).any()):
        raise ZeroDivisionError("a remainder by -1")
    if node.op_type == "BitShift" and bool((operand >= 8 * operand.itemsize).any()):
        raise OverflowError("a shift by more bits than there are")
