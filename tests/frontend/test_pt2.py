"""Saved torch.export programs: read like the module they came from, and never unpickled, imported or evaluated."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llcert.api import load as load_pt2
from llcert.errors import InvalidInput, LlcertError, UnsupportedModel


class Net(nn.Module):
    """Something of everything: sizes computed from the input, several results, in-place operators, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(64, 5)
        self.register_buffer("mean", torch.tensor(0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.conv((x - self.mean) / torch.tensor([2.0]))))
        batch, channels, height, width = x.shape
        a, b = torch.split(x, channels // 2, 1)
        x = torch.cat([torch.max(a, b), torch.min(a, b).clamp(min=-2.0)], 1) + x.new_ones(batch, 4, 4, 4)
        return F.log_softmax(self.dense(x.view(batch, channels * height * width)), 1)


def saved(folder: Path, module: nn.Module, images: Tensor, *, free_batch: bool = False) -> Path:
    sizes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}} if free_batch else None
    program = torch.export.export(module.eval(), (images,), dynamic_shapes=sizes)
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


@pytest.mark.parametrize(("batch", "free_batch"), [(1, False), (2, False), (2, True)])
def test_agrees_with_the_module(tmp_path: Path, batch: int, free_batch: bool) -> None:
    module, images = Net(), torch.rand(batch, 1, 4, 4)
    network = load_pt2(saved(tmp_path, module, images, free_batch=free_batch))
    with torch.no_grad():
        torch.testing.assert_close(network(images).log_softmax(1), module(images))
    assert [n.op.label for n in network.operators()][:5] == ["Affine", "Affine", "Conv", "BatchNorm", "ReLU"]
    assert [note.split()[0] for note in network.notes] == ["final", "agrees"]
    assert network.source == "net.pt2"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("archive"), Net(), torch.rand(2, 1, 4, 4))


def rewritten(path: Path, folder: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive after its members were changed."""
    with zipfile.ZipFile(path) as intact:
        members = {name: intact.read(name) for name in intact.namelist()}
    change(members)
    broken = folder / "broken.pt2"
    with zipfile.ZipFile(broken, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return broken


def edited(member: str, edit: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    """A change inside one JSON member, found by the end of its name."""

    def change(members: dict[str, bytes]) -> None:
        name = next(n for n in members if n.endswith(member))
        content = json.loads(members[name])
        edit(content)
        members[name] = json.dumps(content).encode()

    return change


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was executed",)


def pickled_weight(members: dict[str, bytes]) -> None:
    edited("weights_config.json", lambda c: c["config"]["conv.weight"].update(use_pickle=True))(members)
    members[next(n for n in members if n.endswith("weights/weight_0"))] = pickle.dumps(Boom())


def pickled_samples(members: dict[str, bytes]) -> None:
    members[next(n for n in members if "sample_inputs" in n)] = pickle.dumps(Boom())


def graph(model: Any) -> Any:
    return model["graph_module"]["graph"]


def test_sample_inputs_are_never_looked_at(archive: Path, tmp_path: Path) -> None:
    load_pt2(rewritten(archive, tmp_path, pickled_samples))


BROKEN: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "pickle": (pickled_weight, "pickle"),
    "foreign function": (
        edited("model.json", lambda m: graph(m)["nodes"][0].update(target="os.system")),
        "os.system",
    ),
    "file reader": (
        edited("model.json", lambda m: graph(m)["nodes"][0].update(target="torch.ops.aten.from_file.default")),
        "from_file",
    ),
    "dunder": (
        edited("model.json", lambda m: graph(m)["nodes"][0].update(target="torch.ops.aten.__class__.default")),
        "__class__",
    ),
    "another format": (edited("model.json", lambda m: m["schema_version"].update(major=7)), "format 7"),
    "missing weight": (lambda m: m.pop(next(n for n in m if n.endswith("weight_0"))) and None, "format"),
    "short weight": (lambda m: m.update({next(n for n in m if n.endswith("weight_0")): b"1234"}), "archive"),
    "huge weight": (
        edited(
            "weights_config.json",
            lambda c: c["config"]["conv.weight"]["tensor_meta"].update(sizes=[{"as_int": 10**12}]),
        ),
        "impossible",
    ),
    "negative stride": (
        edited(
            "weights_config.json",
            lambda c: c["config"]["conv.bias"]["tensor_meta"].update(strides=[{"as_int": -1}]),
        ),
        "impossible",
    ),
    "use before definition": (edited("model.json", lambda m: graph(m)["nodes"].reverse()), "before"),
    "no graph": (edited("model.json", lambda m: m.pop("graph_module")), "format"),
    "not json": (lambda m: m.update({next(n for n in m if n.endswith("model.json")): b"{"}), "archive"),
    "huge constant": (
        edited(
            "model.json",
            lambda m: graph(m)["nodes"].insert(
                0,
                {
                    "target": "torch.ops.aten.ones.default",
                    "inputs": [{"name": "size", "arg": {"as_ints": [10**6, 10**6]}, "kind": 1}],
                    "outputs": [{"as_tensor": {"name": "huge"}}],
                    "metadata": {},
                },
            ),
        ),
        "more than llcert can hold",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_archives_end_in_one_line(archive: Path, tmp_path: Path, name: str) -> None:
    change, named = BROKEN[name]
    path = rewritten(archive, tmp_path, change)
    with pytest.raises(LlcertError) as caught:
        load_pt2(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("broken.pt2: ")
    assert named in message


def test_files_that_are_no_archive(archive: Path, tmp_path: Path) -> None:
    path = archive
    content = path.read_bytes()
    for number, bad in enumerate([b"", b"PK", content[: len(content) // 2], content[500:]]):
        broken = tmp_path / f"bad{number}.pt2"
        broken.write_bytes(bad)
        with pytest.raises(InvalidInput, match=f"bad{number}.pt2: "):
            load_pt2(broken)
    with pytest.raises(InvalidInput, match="no such file"):
        load_pt2(tmp_path / "missing.pt2")


def test_mutated_bytes_never_escape_as_other_errors(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    generator = torch.Generator().manual_seed(0)
    broken = tmp_path / "mutated.pt2"
    for _ in range(60):
        mutated = bytearray(content)
        for position in torch.randint(len(content), (3,), generator=generator).tolist():
            mutated[position] = int(torch.randint(256, (), generator=generator))
        broken.write_bytes(bytes(mutated))
        with contextlib.suppress(LlcertError):
            load_pt2(broken)


def entries(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON document, those of messages left out."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = [(content, key) for key, _ in pairs if key != "metadata"]
    return found + [deeper for container, key in found for deeper in entries(container[key])]


@pytest.mark.parametrize("seed", range(40))
def test_mutated_graphs_never_escape_as_other_errors(archive: Path, tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)

    def edit(model: Any) -> None:
        container, key = choose.choice(entries(model["graph_module"]))
        other, other_key = choose.choice(entries(model["graph_module"]))
        junk = [None, -1, 10**20, 1.5, "x", [], {}, True, [[]], copy.deepcopy(other[other_key])]
        container[key] = choose.choice(junk)

    path = rewritten(archive, tmp_path, edited("model.json", edit))
    with contextlib.suppress(LlcertError):
        load_pt2(path)


def test_archive_of_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Boom(), buffer)
    (tmp_path / "model.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(UnsupportedModel, match="0 programs"):
        load_pt2(tmp_path / "model.pt2")
