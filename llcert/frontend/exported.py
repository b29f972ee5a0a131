"""The torch door: modules, torch.fx graphs and exported programs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node as FxNode

from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.pt2 import load_pt2
from llcert.frontend.traced import network
from llcert.frontend.traced_graph import Ref, Step, Traced, first_line
from llcert.ir import Network

__all__ = ["from_torch", "load_pt2"]


def from_torch(module: nn.Module, example: Tensor) -> Network:
    """The classifier a module computes in eval mode, with the module's own parameters: training one trains both.

    example: one image or a batch of them, `[batch, *shape]`, floating point; only its shape and type matter.
    Weights that the module computes from parameters (weight norm, spectral norm, orthogonal layers) are computed once,
    and a note says so. The module's modes are left as they were. It has not been compared with the module yet.
    Raises UnsupportedModel where torch cannot export the module or llcert cannot represent it.
    """
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"from_torch takes an nn.Module, got {type(module).__name__}; llcert.load reads files")
    if not isinstance(example, Tensor) or example.ndim < 2 or not example.is_floating_point() or not len(example):
        raise InvalidInput(
            "from_torch needs an example batch: a floating-point tensor [batch, *shape], batch 1 or more"
        )
    source = type(module).__name__

    def answer(images: Tensor) -> Any:
        with _evaluating(module):
            return module(images.to(example.device))

    with _evaluating(module):
        traced = _traced(_exported(module, example, source), source)
    return network(traced, answer, "the module")


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every part in the mode it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _exported(module: nn.Module, example: Tensor, source: str) -> ExportedProgram:
    """The module's graph for any number of images, or for the example's own where the module insists on that."""
    failures = []
    several = example[:1].expand(_SEVERAL, *example.shape[1:])
    for images, free in ((several, ({0: Dim.DYNAMIC},)), (example, None)):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)  # old weight norm, harmless here
                return torch.export.export(module, (images.detach(),), dynamic_shapes=free, strict=False)
        except Exception as error:  # the user's forward, and torch's tracer, may raise anything
            failures.append(error)
    raise UnsupportedModel(
        f"{source}: torch.export cannot capture it: {type(failures[-1]).__name__}: {first_line(failures[-1])}; "
        "remove control flow that depends on the image, or export it to ONNX yourself and load that"
    ) from failures[-1]


_SEVERAL = 2
"""Images that stand for any number of them while a module is traced."""


def _written(program: ExportedProgram) -> list[str]:
    """Parameters and buffers that an operator in place writes to, directly or by what was computed from them alone."""
    kinds = (InputKind.PARAMETER, InputKind.BUFFER)
    names = {s.arg.name: str(s.target) for s in program.graph_signature.input_specs if s.kind in kinds}
    owners = {n: names[n.name] for n in program.graph.nodes if n.op == "placeholder" and n.name in names}
    written = []
    for node in program.graph.nodes:
        inputs = node.all_input_nodes
        if node.op != "call_function" or not inputs or not all(i in owners for i in inputs):
            continue
        owners[node] = owners[inputs[0]]
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            written.append(owners[node])
    return written


_CHANGES = (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)
"""Outputs of a traced graph that are written back into the module or the image."""


def _traced(program: ExportedProgram, source: str) -> Traced:
    signature = program.graph_signature
    known: dict[str, Tensor] = {}
    images: list[str] = []
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            images.append(spec.arg.name)
        elif isinstance(tensor := _stored(program, spec.target), Tensor):
            known[spec.arg.name] = tensor
    changed = [str(s.target) for s in signature.output_specs if s.kind in _CHANGES]
    changed += _written(program)
    if changed:
        raise UnsupportedModel(
            f"{source}: its forward changes {changed[0]}, so that the next call may answer otherwise; "
            "call eval(), or take the change out of forward"
        )
    outputs = [s.arg for s in signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    if len(images) != 1 or len(outputs) != 1:
        raise UnsupportedModel(
            f"{source}: takes {len(images)} inputs and returns {len(outputs)} values; "
            "wrap it in a module from one batch of images to one batch of logits"
        )
    placeholders = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    image = placeholders[images[0]].meta["val"]
    batch, *shape = (int(size) if isinstance(size, int) else None for size in image.shape)
    if None in shape:
        raise UnsupportedModel(f"{source}: its input size is not fixed; export with a free batch axis only")
    steps = tuple(_step(n, source) for n in program.graph.nodes if n.op == "call_function")
    return Traced(
        known=known,
        image=images[0],
        shape=tuple(int(size) for size in shape if size is not None),
        dtype=image.dtype,
        batch=batch,
        steps=steps,
        output=outputs[0].name,
        source=source,
    )


def _stored(program: ExportedProgram, target: str | None) -> Any:
    if target in program.state_dict:
        return program.state_dict[target]
    return program.constants.get(target or "")


def _step(node: FxNode, source: str) -> Step:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        names = [a.name for a in target._schema.arguments]
        arguments: Mapping[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    elif inspect.isbuiltin(target) or inspect.isfunction(target):
        arguments = {str(i): argument for i, argument in enumerate(node.args)}
    else:
        raise UnsupportedModel(f"{source}: {target} ({node.name}): control flow inside the network is not supported")
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return Step(target, {k: _referenced(v) for k, v in arguments.items()}, node.name, _hint(node), dtype)


def _referenced(value: Any) -> Any:
    if isinstance(value, FxNode):
        return Ref(value.name)
    if isinstance(value, list | tuple):
        return [_referenced(v) for v in value]
    return value


def _hint(node: FxNode) -> str:
    """The path of the submodule that makes the call."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((path for path, _ in reversed(stack.values()) if path), "")
    return f"in {path}" if path else ""
