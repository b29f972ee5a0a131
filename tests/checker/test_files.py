"""Hostile files: one clear line each, never a traceback, never an acceptance."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llcert.checker import check, files
from llcert.checker.graph import build
from llcert.errors import InvalidInput

from .cases import rehash, write
from .generator import certify
from .networks import Toy
from .test_certificates import change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A certificate of a network with a node of every kind."""
    rng, toy = np.random.default_rng(0), Toy(classes=2)

    def linear(at: int, size: int) -> int:
        A = rng.normal(size=(size, toy.nodes[at]["size"]))
        return toy.add("linear", [at], size, A=A.astype(np.float32).astype(float), b=np.zeros(size))

    toy.add("input", [], 4)
    clamp = toy.add("clamp", [linear(0, 4)], 4, low=np.zeros(4), high=np.full(4, 2.0))
    leaky = toy.add("leaky", [toy.add("add", [clamp, linear(clamp, 4)], 4)], 4, below=np.full(4, -0.5))
    at = toy.add("concat", [clamp, leaky], 8, places=[np.arange(4) * 2, np.arange(4) * 2 + 1])
    none = np.full(4, np.inf)
    at = toy.add("maxmin", [at], 8, first=np.arange(4), second=np.arange(4, 8), low=-none, high=none)
    linear(at, 2)
    x, eps = rng.normal(size=4), Fraction(1, 1000)
    label = int(np.argmax(toy.evaluate(x[None])[0]))
    write(tmp_path, toy, eps, [(label, certify(toy, x, label, float(eps), rng))])
    (result,) = check(tmp_path)
    assert result.accepted, result.reason
    return tmp_path


def complaint(folder: Path) -> str:
    """The one line that says what is wrong: an error, or why the image is rejected."""
    try:
        (result,) = check(folder)
    except InvalidInput as error:
        line = str(error)
    else:
        assert not result.accepted
        line = result.reason
    assert line
    assert len(line.splitlines()) == 1
    assert len(line) < 200
    return line


def node(k: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"][k].update(fields)


LINEAR, CLAMP, ADD, LEAKY, CONCAT, MAXMIN, LAST = 1, 2, 4, 5, 6, 7, 8
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


def put(name: str, edit: Callable[[np.ndarray], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: np.asarray(edit(arrays[name]))})


def at(i: int, to: Any) -> Callable[[np.ndarray], np.ndarray]:
    def edit(v: np.ndarray) -> np.ndarray:
        v = v.copy()
        v[i] = to
        return v

    return edit


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


IMAGES = {
    "no image": lambda a: a.pop("x"),
    "image of another size": put("x", lambda v: v[:-1]),
    "no centre": lambda a: a.pop("2.centre"),
    "NaN in a box": put("2.lower", at(0, np.nan)),
    "infinite box": put("2.lower", at(0, -np.inf)),
    "negative weight": put("2.weights", at(0, -1.0)),
    "negative norm": put("2.norm.0", lambda v: -v),
    "infinite radius": put("2.radius", lambda v: np.inf),
    "NaN after": put("2.after", lambda v: np.nan),
    "radius of two": put("2.radius", lambda v: np.ones(2)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_evidence_that_is_none(name: str, folder: Path) -> None:
    change(folder, "images/0.npz", IMAGES[name])
    assert complaint(folder).startswith("image 0: images/0.npz: ")


@pytest.mark.parametrize(
    ("array", "to"),
    [("stop", -1), ("stop", 99), ("stop", 1), ("stop", 0.5), ("lam", -1.0), ("lam", np.nan), ("slopes", np.inf)],
)
def test_rows_that_are_none(array: str, to: float, folder: Path) -> None:
    def edit(arrays: dict[str, Any]) -> None:
        arrays.update({k: np.full_like(v, to, np.asarray(to).dtype) for k, v in arrays.items() if f".{array}" in k})
        if array != "stop":  # a row down to the input reaches every activation
            other = next(k for k in arrays if k.endswith("stop")).split(".")[0]
            arrays[f"{other}.stop"] = np.int64(0)
            for k, size in ((CLAMP, 4), (LEAKY, 4), (MAXMIN, 4)):
                arrays[f"{other}.{k}.slopes.0"] = np.full(size, to if array == "slopes" else 0.5)
                arrays[f"{other}.{k}.lam.0"] = np.asarray(to if array == "lam" else 0.1)

    change(folder, "images/0.npz", edit)
    assert complaint(folder).startswith("image 0: ")


@pytest.mark.parametrize("name", ["certificate.json", "graph.json", "model.npz", "images/0.npz"])
def test_a_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["graph.json", "model.npz", "images/0.npz"])
def test_a_file_that_is_a_folder(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["graph.json", "model.npz", "images/0.npz"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    rehash(folder)
    assert name in complaint(folder)


@pytest.mark.parametrize("name", ["model.npz", "images/0.npz"])
@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_in_a_file(name: str, seed: int, folder: Path) -> None:
    """Whatever comes of it, it is one line, or harmless."""
    rng = np.random.default_rng(seed)
    content = bytearray((folder / name).read_bytes())
    for i in rng.integers(len(content), size=8):
        content[i] = rng.integers(256)
    (folder / name).write_bytes(content)
    rehash(folder)
    with contextlib.suppress(InvalidInput):
        assert all(r.accepted or len(r.reason.splitlines()) == 1 for r in check(folder))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "nul",
        "[" * 100_000,
        '{"format": 1, "format": 1}',
        '{"format": 1, "eps": NaN}',
        "\xff",
        '{"a": ' + "9" * 9999 + "}",
    ],
)
def test_json_that_is_none(text: str, folder: Path) -> None:
    for name in ("graph.json", "certificate.json"):
        (folder / name).write_bytes(text.encode("latin-1"))
        if name == "graph.json":
            rehash(folder)
        assert complaint(folder).startswith(f"{name}: ")


ENTRIES = [
    {"index": 0, "label": -1, "file": "images/0.npz"},
    {"index": 0, "label": True, "file": "images/0.npz"},
    {"index": 0, "label": 0, "file": "../images/0.npz"},
    {"index": 0, "label": 0, "file": "images/../../secret.npz"},
    {"index": 0, "label": 0, "file": "images/0.npz\n"},
    {"index": 0, "label": 0, "file": 7},
    {"index": "0", "label": 0, "file": "images/0.npz"},
    {"label": 0, "file": "images/0.npz"},
    None,
]


@pytest.mark.parametrize("entry", ENTRIES, ids=repr)
def test_entries_that_are_none(entry: Any, folder: Path) -> None:
    change(folder, "certificate.json", lambda c: c.update(images=[entry]))
    assert complaint(folder).startswith("certificate.json: images: ")


@pytest.mark.parametrize(
    "change_", [{"semantics": "complex"}, {"files": []}, {"images": {}}, {"format": "1"}], ids=repr
)
def test_certificates_that_are_none(change_: dict[str, Any], folder: Path) -> None:
    path = folder / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change_))
    assert complaint(folder).startswith("certificate.json: ")


# arrays


def archive(method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


def header(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + body


F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header("1"),
        header("{}"),
        header("__import__('os')"),
        header(F8 % "(1000000000000,)"),
        header(F8 % "(-1,)", b"\0" * 8),
        header(F8 % "(2,)", b"\0" * 8),
        header(F8 % "(1,)", b"\0" * 16),
        header(F8 % "'a'"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        header("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", b"\0" * 16),
        header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
    ],
)
def test_arrays_that_are_none(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        files.parse_npz("a.npz", archive(x=content))
    assert str(caught.value).startswith("a.npz: ")


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InvalidInput):
        files.parse_npz("a.npz", (tmp_path / "a.npz").read_bytes())


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_compressions_are_none(method: int) -> None:
    """Their decoders raise what they like, and make gigabytes of a few bytes before anyone can count."""
    with pytest.raises(InvalidInput, match=r"a\.npz: an array is neither stored nor deflated"):
        files.parse_npz("a.npz", archive(method, x=array(np.zeros(100))))


def array(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, values)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_archives_are_refused_in_one_line_or_read(method: int) -> None:
    """Every single byte of an archive, and many at random, changed; checksums find what is not seen otherwise."""
    rng, refused = np.random.default_rng(method), 0
    whole = archive(method, x=array(rng.normal(size=6)), y=array(np.arange(3)))
    places = [np.array([k]) for k in range(len(whole))] + [rng.integers(0, len(whole), 20) for _ in range(200)]
    for where in places:
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[where] ^= rng.integers(1, 256, where.size, dtype=np.uint8)
        line = refusal(damaged.tobytes())
        assert line is None or (line.startswith("a.npz: ") and len(line.splitlines()) == 1)
        refused += line is not None
    assert refused > len(places) / 2


def refusal(content: bytes) -> str | None:
    try:
        files.parse_npz("a.npz", content)
    except InvalidInput as error:
        return str(error)
    return None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("name", ["certificate.json", "graph.json", "model.npz", "images/0.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device", "link to itself"])
def test_what_is_no_file_is_not_waited_for(kind: str, name: str, folder: Path) -> None:
    path = folder / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device" | "link to a device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(path)
    line = complaint(folder)
    assert "not a regular file" in line or (kind == "link to itself" and "cannot be read" in line)


def test_a_link_to_a_file_is_read(folder: Path) -> None:
    (folder / "graph.json").rename(folder / "elsewhere.json")
    (folder / "graph.json").symlink_to(folder / "elsewhere.json")
    (result,) = check(folder)
    assert result.accepted


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
        with pytest.raises(InvalidInput, match=f"graph.json: nodes: {said}"):
            build(many(inputs, size, nodes), nothing)
    else:
        assert build(many(inputs, size, nodes), nothing).nodes[-1].size == size


def test_blocks_that_share_a_body_count_it_each() -> None:
    graph = many(2, 1000, 1000)
    graph["cuts"] = [0, *range(501, 1001)]
    assert build(graph, files.Arrays("model.npz", {}))
    listed = graph["nodes"]
    listed[501:] = [{**listed[1], "inputs": [500, 0]} for _ in range(500)]
    with pytest.raises(InvalidInput, match="blocks share too many nodes"):
        build(graph, files.Arrays("model.npz", {}))


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(10**4))
    assert len(out.getvalue()) < 1000
    with pytest.raises(InvalidInput, match="more than 1000 bytes"):
        files.parse_npz("a.npz", out.getvalue())


def test_an_archive_unpacks_to_no_more_than_deflation_saves() -> None:
    """A thousand names for the same bytes, and a size that is only said."""
    out = io.BytesIO()
    np.savez_compressed(out, x=np.zeros(10**7))
    assert files.parse_npz("a.npz", out.getvalue()).found["x"].size == 10**7
    with zipfile.ZipFile(out, "a") as bomb:
        bomb.infolist()[0].file_size = 2**33 - 1
        bomb.comment = b"written anew"
    with pytest.raises(InvalidInput, match="unpacks to more than"):
        files.parse_npz("a.npz", out.getvalue())
