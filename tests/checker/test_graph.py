"""graph.json and model.npz that are none are refused in one line, and their size is limited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker import files
from llcert.checker.files import InvalidCertificate
from llcert.checker.graph import build

from .cases import at, change, complaint, put

LINEAR, CLAMP, ADD, LEAKY, CONCAT, MAXMIN, LAST = 1, 2, 4, 5, 6, 7, 8
F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}"


def node(k: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"][k].update(fields)


GRAPHS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no nodes": lambda g: g.update(nodes=[]),
    "nodes are no list": lambda g: g.update(nodes={"0": 1}),
    "a node is no object": lambda g: g["nodes"].__setitem__(2, 7),
    "unknown kind": node(CLAMP, kind="softmax"),
    "kind is a list": node(CLAMP, kind=["clamp"]),
    "second input": node(CLAMP, kind="input"),
    "no input": lambda g: g["nodes"].pop(0),
    "cyclic": node(LINEAR, input=CLAMP),
    "reads itself": node(CLAMP, input=CLAMP),
    "missing input": lambda g: g["nodes"][LINEAR].pop("input"),
    "input is null": node(LINEAR, input=None),
    "input is text": node(LINEAR, input="0"),
    "input is true": node(LINEAR, input=True),
    "input is a fraction": node(LINEAR, input=0.0),
    "negative input": node(LINEAR, input=-1),
    "no inputs of a sum": node(ADD, inputs=[]),
    "a sum of another size": node(ADD, inputs=[CLAMP, CONCAT]),
    "negative size": node(LINEAR, size=-4),
    "size of text": node(LINEAR, size="4"),
    "huge size": node(LINEAR, size=2**60),
    "size far too huge": node(0, size=10**400),
    "another size": node(LINEAR, size=5),
    "input of another size": node(0, size=5),
    "size of an activation": node(CLAMP, size=3),
    "concat of another size": node(CONCAT, size=9),
    "no cuts": lambda g: g.pop("cuts"),
    "cuts without an activation": lambda g: g["cuts"].remove(CLAMP),
    "cuts without the last": lambda g: g["cuts"].remove(LAST),
    "cuts without the input": lambda g: g["cuts"].remove(0),
    "cuts out of order": lambda g: g["cuts"].reverse(),
    "a cut twice": lambda g: g["cuts"].insert(0, 0),
    "a cut that is no node": lambda g: g["cuts"].append(99),
    "format": lambda g: g.update(format=2),
    "format true": lambda g: g.update(format=True),
    "no classes": lambda g: g.pop("classes"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_are_none(name: str, folder: Path) -> None:
    change(folder, "graph.json", GRAPHS[name])
    # a larger input is a graph too, but not that of the image
    assert complaint(folder).startswith(("graph.json: ", "model.npz: ", "image 0: images/0.npz: x: "))


MODELS = {
    "index out of range": put("1.indices", at(0, 4)),
    "huge index": put("1.indices", at(0, 2**62)),
    "negative index": put("1.indices", at(0, -1)),
    "an entry twice": put("1.indices", at(0, 1)),
    "fractional indices": put("1.indices", lambda v: v + 0.5),
    "indptr does not start at 0": put("1.indptr", at(0, 1)),
    "indptr falls": put("1.indptr", at(2, 1)),
    "indptr ends early": put("1.indptr", at(-1, 15)),
    "indptr ends late": put("1.indptr", at(-1, 99)),
    "indptr too short": put("1.indptr", lambda v: v[:-1]),
    "fewer data": put("1.data", lambda v: v[:-1]),
    "NaN": put("1.data", at(0, np.nan)),
    "infinite": put("1.data", at(0, np.inf)),
    "complex": put("1.data", lambda v: v + 1j),
    "text": put("1.data", lambda v: np.array(["a"] * v.size)),
    "two dimensions": put("1.data", lambda v: v.reshape(2, -1)),
    "magnitude too small": lambda a: a.update({"1.offset": a["1.offset"] + 1}),
    "negative magnitude": put("1.magnitude", at(0, -1.0)),
    "low above high": put("2.low", at(0, 9.0)),
    "low is infinite": lambda a: a.update({"2.low": a["2.low"] + np.inf, "2.high": a["2.high"] + np.inf}),
    "NaN threshold": put("2.high", at(0, np.nan)),
    "infinite slope": put("5.below", at(0, np.inf)),
    "slopes of another size": put("5.below", lambda v: v[:-1]),
    "places twice": put("6.places.0", at(0, 2)),
    "places out of range": put("6.places.0", at(0, 8)),
    "pairs twice": put("7.first", at(0, 1)),
    "fewer pairs": put("7.first", lambda v: v[:-1]),
    "NaN in maxmin": put("7.high", at(0, np.nan)),
    "missing": lambda a: a.pop("1.data"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_none(name: str, folder: Path) -> None:
    change(folder, "model.npz", MODELS[name])
    assert complaint(folder).startswith("model.npz: ")


def many(inputs: int, size: int, nodes: int) -> dict[str, Any]:
    """A graph of sums, each of so many inputs, in a few bytes."""
    sums = [{"kind": "add", "inputs": [k] * inputs, "size": size, "type": "float32"} for k in range(nodes)]
    listed = [{"kind": "input", "size": size, "type": "float32"}, *sums]
    return {"format": 2, "nodes": listed, "cuts": [0, nodes], "classes": size}


@pytest.mark.parametrize(
    ("inputs", "size", "nodes", "said"),
    [
        (10**6, 2, 1, "more than 20000 inputs"),
        (10**4, 2, 1, ""),
        (3, 2**24, 9, "values of more than 4194304 numbers"),
        (1, 2**10, 9999, "values of more than 4194304 numbers"),
        (10**4, 10**3, 1, "values of more than 4194304 numbers"),
        (1, 3, 9999, ""),
    ],
)
def test_what_is_added_up_grows_with_the_files(inputs: int, size: int, nodes: int, said: str) -> None:
    nothing = files.Arrays("model.npz", {})
    if said:
        with pytest.raises(InvalidCertificate, match=f"graph.json: nodes: {said}"):
            build(many(inputs, size, nodes), nothing)
    else:
        assert build(many(inputs, size, nodes), nothing).nodes[-1].size == size


def test_blocks_that_share_a_body_count_it_each() -> None:
    graph = many(2, 1000, 1000)
    graph["cuts"] = [0, *range(501, 1001)]
    assert build(graph, files.Arrays("model.npz", {}))
    listed = graph["nodes"]
    listed[501:] = [{**listed[1], "inputs": [500, 0]} for _ in range(500)]
    with pytest.raises(InvalidCertificate, match="blocks share too many nodes"):
        build(graph, files.Arrays("model.npz", {}))
