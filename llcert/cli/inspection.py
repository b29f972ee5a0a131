"""`llcert inspect` behind its options: prints what llcert makes of a model file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from llcert.api import load
from llcert.bounds import GlobalBound, global_bound
from llcert.cli.terminal import stdout
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend.comparison import measured
from llcert.frontend.refusals import unsupported
from llcert.frontend.second_opinion import second_opinion
from llcert.ir import Network, Node, format_name
from llcert.machine.files import file_sha256
from llcert.numerics.products import full_precision
from llcert.ops import Cast
from llcert.program import Program, lower
from llcert.reporting.console import facts, plain
from llcert.reporting.layers import block_name, layers


def show(model: str, *, cross_check: bool) -> None:
    """Prints the model. cross_check: compares it with a second importer, too.

    Raises UnsupportedModel with the reason where the model is refused.
    """
    path = Path(model)
    if cross_check and path.name.lower().endswith(".pt2"):
        raise InvalidInput(f"{path}: --cross-check compares .onnx files; a .pt2 file has no second importer")
    network = _loaded(path)
    program = lower(network, "cpu", network.dtype)
    with torch.no_grad(), full_precision():
        bound = global_bound(program)
    console = stdout()
    console.print(Group(_head(path, network), Text(), _table(program, bound), Text(), *_folded(program)))
    if cross_check:
        agreement, _ = measured(network, _pixels(network), second_opinion(path))
        console.print(Text("cross-check  ", style="bold") + plain(agreement.sentence))
    console.print("Nothing in this model is refused: llcert certify accepts it.")


def _pixels(network: Network) -> Tensor:
    return torch.rand(8, *network.input.shape, generator=torch.Generator().manual_seed(0))


def _loaded(path: Path) -> Network:
    """The network; where it is refused, every operator type in it that llcert has no rule for is printed first."""
    try:
        return load(path)
    except UnsupportedModel:
        if path.name.lower().endswith((".onnx", ".onnx.gz")):
            for line in unsupported(path):
                stdout().print(plain(f"refused  {line}"), soft_wrap=True)
        raise


def _head(path: Path, network: Network) -> RenderableType:
    grid = facts()
    grid.add_row("model", plain(f"{path}, {path.stat().st_size:,} bytes"))
    grid.add_row("sha256", plain(file_sha256(path)))
    shape, kind = _shape(network.input.shape), format_name(network.input.dtype)
    grid.add_row("input", plain(f"{network.input_name} {shape}, {kind}, any batch size"))
    grid.add_row("output", plain(f"{network.output_name}, {network.classes} logits"))
    grid.add_row("parameters", plain(f"{sum(_parameters(n) for n in network.operators()):,}"))
    for node in network.operators():
        if isinstance(node.op, Cast):
            grid.add_row("cast", plain(f"{node.name or 'a value'} into {format_name(node.dtype)}"))
    for name, value in network.metadata.items():
        grid.add_row("metadata", plain(f"llcert.{name} = {value}"))
    for note in network.notes:
        grid.add_row("note", plain(note))
    return grid


def _table(program: Program, bound: GlobalBound) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=30)
    table.add_column("operator", overflow="fold")
    table.add_column("output", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("global norm", justify="right", no_wrap=True)
    named = iter(layers(program, bound))
    for block in program.blocks:
        parameters = f"{sum(_parameters(n) for n in {*block.body, block.node}):,}"
        for _ in block.terms:
            layer = next(named)
            table.add_row(
                plain(layer.name), layer.operator, _shape(block.node.shape), parameters, f"{layer.global_norm:.4g}"
            )
            parameters = ""
    table.add_row("network", "", "", "", f"{float(bound.logit_lipschitz):.4g}", style="bold")
    return table


def _folded(program: Program) -> Iterator[RenderableType]:
    """A line for each block whose linear map consists of several operators."""
    found = [(number, block) for number, block in enumerate(program.blocks) if len(block.body) > 1]
    if found:
        yield Text("Folded into one linear map each:", style="bold")
    for number, block in found:
        yield plain(f"  {block_name(number, block)}: {', '.join(n.op.label for n in block.body)}")


def _parameters(node: Node) -> int:
    return sum(t.numel() for t in node.op.tensors().values() if t.is_floating_point())


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
