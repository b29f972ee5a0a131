"""Saved torch.export programs: read like the module they came from, and never unpickled, imported or evaluated."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llcert.errors import InvalidInput, LlcertError, UnsupportedModel
from llcert.frontend.pt2 import load_pt2


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


@pytest.mark.parametrize("free_batch", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_agrees_with_the_module(tmp_path: Path, batch: int, free_batch: bool) -> None:
    if free_batch and batch == 1:
        pytest.skip("torch fixes a batch of one")
    module, images = Net(), torch.rand(batch, 1, 4, 4)
    network = load_pt2(saved(tmp_path, module, images, free_batch=free_batch))
    with torch.no_grad():
        torch.testing.assert_close(network(images).log_softmax(1), module(images))
    assert [n.op.label for n in network.operators()][:5] == ["Affine", "Affine", "Conv", "BatchNorm", "ReLU"]
    assert [note.split()[0] for note in network.notes] == ["final", "agrees"]
    assert network.source == "net.pt2"


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive after its members were changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    broken = path.with_name("broken.pt2")
    with zipfile.ZipFile(broken, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
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


def test_sample_inputs_are_never_looked_at(tmp_path: Path) -> None:
    load_pt2(rewritten(saved(tmp_path, Net(), torch.rand(2, 1, 4, 4)), pickled_samples))


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
def test_broken_and_hostile_archives_end_in_one_line(tmp_path: Path, name: str) -> None:
    change, named = BROKEN[name]
    path = rewritten(saved(tmp_path, Net(), torch.rand(2, 1, 4, 4)), change)
    with pytest.raises(LlcertError) as caught:
        load_pt2(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("broken.pt2: ")
    assert named in message


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    path = saved(tmp_path, Net(), torch.rand(2, 1, 4, 4))
    content = path.read_bytes()
    for number, bad in enumerate([b"", b"PK", content[: len(content) // 2], content[500:]]):
        broken = tmp_path / f"bad{number}.pt2"
        broken.write_bytes(bad)
        with pytest.raises(InvalidInput, match=f"bad{number}.pt2: "):
            load_pt2(broken)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_pt2(tmp_path / "missing.pt2")


def test_mutated_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    content = bytearray(saved(tmp_path, Net(), torch.rand(2, 1, 4, 4)).read_bytes())
    generator = torch.Generator().manual_seed(0)
    broken = tmp_path / "mutated.pt2"
    for _ in range(60):
        mutated = bytearray(content)
        for position in torch.randint(len(content), (3,), generator=generator).tolist():
            mutated[position] = int(torch.randint(256, (), generator=generator))
        broken.write_bytes(bytes(mutated))
        with contextlib.suppress(LlcertError):
            load_pt2(broken)


def test_archive_of_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Boom(), buffer)
    (tmp_path / "model.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(UnsupportedModel, match="0 programs"):
        load_pt2(tmp_path / "model.pt2")
