"""Everything in a file that would be refused, not the first thing alone."""

from __future__ import annotations

from pathlib import Path

from llcert.frontend.advice import advice
from llcert.frontend.normalise import read
from llcert.ops.registry import onnx_importers

_COMPUTED = ("Shape", "Size", "If")
"""Read without an importer: what they give is known, or refused where it is met."""


def unsupported(path: str | Path) -> tuple[str, ...]:
    """One line for each operator type that the image reaches and llcert cannot import, with what would help.

    Operators of supported types may be refused too, for how they are used: `load` names the first.
    Raises InvalidInput or UnsupportedModel where the file itself cannot be read.
    """
    graph = read(Path(path))
    reached = {graph.image.name}
    met: dict[str, list[str]] = {}
    for node in graph.nodes:
        if not reached.intersection(node.input):
            continue
        if node.op_type in ("Shape", "Size"):  # a shape does not depend on the image
            continue
        reached.update(o for o in node.output if o)
        if node.op_type not in onnx_importers and node.op_type not in _COMPUTED:
            met.setdefault(node.op_type, []).append(node.name or next((o for o in node.output if o), "?"))
    return tuple(
        f"{kind} ({', '.join(names[:3])}{', ...' if names[3:] else ''}): {advice(kind)}" for kind, names in met.items()
    )
