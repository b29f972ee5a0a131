"""Small files that ask for much memory: refused in one line that names the node, before anything is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from drawing import ints
from onnx_text import noise, onnx_model, written
from torch import nn

import llcert
from llcert.api import from_torch, load
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend import onnx_file
from llcert.frontend.limits import Budget
from llcert.ir import LARGEST_TOGETHER, Input, apply, evaluate, last_reads
from llcert.ops import Add, Affine, Conv, MaxPool, SumPool, relu
from llcert.program import lower

ROW, PICTURE = "float[N,1] x", "float[N,1,1,1] x"
HEAD = "m = ReduceMean<axes=[1], keepdims=1>({0}) y = MatMul(m, d)"
POOLED = "g = GlobalAveragePool({0}) f = Flatten(g) y = MatMul(f, d)"
D = {"d": torch.tensor([[1.0, 0.0]])}


def chain(length: int, entries: int) -> onnx.ModelProto:
    """Values of one size, each of them small enough."""
    body = "v0 = Expand(x, s) " + " ".join(f"r{i} = Relu(v{i}) v{i + 1} = Neg(r{i})" for i in range(length))
    return onnx_model(f"{body} {HEAD.format(f'v{length}')}", {"s": ints(1, entries), **D}, image=ROW)


HUGE = {
    "expand": ("v = Expand(x, s) " + HEAD.format("v"), {"s": ints(1, 2**30)}, ROW, "'v'"),
    "tile": ("v = Tile(x, s) " + POOLED.format("v"), {"s": ints(1, 1, 2**15, 2**15)}, PICTURE, "'v'"),
    "constant": ("c = ConstantOfShape(s) v = Mul(x, c) " + HEAD.format("v"), {"s": ints(1, 2**30)}, ROW, "'c'"),
    "range": (
        "c = Range(a, b, s) v = Add(x, c) " + HEAD.format("v"),
        {"a": torch.tensor(0.0), "b": torch.tensor(1.0), "s": torch.tensor(1e-30)},
        ROW,
        "'c'",
    ),
    "pad": ("v = Pad(x, s) " + POOLED.format("v"), {"s": ints(*[0, 0, 2**15, 2**15] * 2)}, PICTURE, "'v'"),
    "padded convolution": (
        "v = Conv<pads=[32768, 32768, 32768, 32768]>(x, k) " + POOLED.format("v"),
        {"k": torch.ones(1, 1, 1, 1)},
        PICTURE,
        "'v'",
    ),
    "windows of a convolution": (
        "k = ConstantOfShape(s) v = Conv<pads=[512, 512, 512, 512]>(x, k) " + POOLED.format("v"),
        {"s": ints(1, 1, 1024, 1024)},
        "float[N,1,1024,1024] x",
        "'v'",
    ),
    "windows of a pool": (
        "v = MaxPool<kernel_shape=[500, 500]>(x) " + POOLED.format("v"),
        {},
        "float[N,1,1000,1000] x",
        "'v'",
    ),
    "windows of a mean": (
        "v = AveragePool<kernel_shape=[500, 500]>(x) " + POOLED.format("v"),
        {},
        "float[N,1,1000,1000] x",
        "'v'",
    ),
    "product": (
        "k = ConstantOfShape(s) v = MatMul(x, k) " + HEAD.format("v"),
        {"s": ints(1, 10**9)},
        ROW,
        "'k'",
    ),
    "doubled": (
        "v0 = Identity(x) "
        + " ".join(f"v{i + 1} = Concat<axis=1>(v{i}, v{i})" for i in range(40))
        + HEAD.format("v40"),
        {},
        ROW,
        "'v25'",
    ),
    "doubled constants": (
        " ".join(f"k{i + 1} = Concat<axis=0>(k{i}, k{i})" for i in range(40)) + "v = Add(x, k40) " + HEAD.format("v"),
        {"k0": torch.ones(1)},
        ROW,
        "'k23'",
    ),
    "one matrix for all": (
        "k = ConstantOfShape(s) v0 = Identity(x) "
        + " ".join(f"v{i + 1} = MatMul(v{i}, k)" for i in range(100))
        + HEAD.format("v100"),
        {"s": ints(2048, 2048)},
        "float[N,2048] x",
        "'v8'",
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_would_fill_the_memory_is_named(name: str, tmp_path: Path) -> None:
    body, constants, image, node = HUGE[name]
    path = written(tmp_path, onnx_model(body, {**constants, **D}, image=image))
    with pytest.raises(UnsupportedModel, match=rf"^model\.onnx: node {node} \(.*(more than|allows)"):
        onnx_file.load(path)


def test_values_count_together_whatever_each_of_them_is(tmp_path: Path) -> None:
    path = written(tmp_path, chain(30, LARGEST_TOGETHER // 32))
    with pytest.raises(UnsupportedModel, match=r"node 'r15' \(Relu.*numbers, more than .*; export .*smaller images"):
        load(path)


PEAK = """
import resource, sys
from llcert.cli.app import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = main(["inspect", sys.argv[1]])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = written(tmp_path, chain(60, 2**24))
    assert path.stat().st_size < 4000
    command = [sys.executable, "-c", PEAK, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    code, kibibytes = map(int, found.stdout.split())
    assert code == 2
    assert "'v1' (Neg" in found.stderr
    assert kibibytes < 400 * 1024  # imports of packages, most of it


def test_modules_count_likewise_and_weights_allow_more() -> None:
    image = torch.zeros(1, 3, 700, 700)
    wide = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), *[nn.ReLU(), nn.Sigmoid()] * 2, nn.AdaptiveAvgPool2d(1))
    wide = nn.Sequential(wide, nn.Flatten(), nn.Linear(24, 10))
    with pytest.raises(UnsupportedModel, match=r"sigmoid.* one image takes .* numbers, more than"):
        from_torch(wide, image)
    budget = Budget(weights=0)
    assert Budget(weights=10**7).allowed == budget.allowed + 4 * 10**7


def test_windows_are_those_of_all_positions() -> None:
    image = apply(Input((4, 8, 8)))
    convolved = apply(Conv(torch.ones(6, 2, 3, 3), groups=2), image)
    assert convolved.op.scratch([image.shape], convolved.shape) == 4 * 9 * 36
    for op in (MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), SumPool((2, 2), (2, 2))):
        assert op.scratch([image.shape], apply(op, image).shape) == 4 * 4 * 16


def test_values_go_with_their_last_reader() -> None:
    x = apply(Input((2,)))
    a = apply(relu(), x)
    b = apply(Affine(scale=torch.tensor(2.0)), a)
    c = apply(Add(), a, b)
    assert list(last_reads(n.inputs for n in (x, a, b, c))) == [[], [x], [], [a, b]]
    assert evaluate(c, torch.tensor([[1.0, -1.0]])).tolist() == [[3, 0]]


def test_what_is_held_most() -> None:
    image = torch.zeros(1, 3, 8, 8)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
    program = lower(from_torch(module, image))
    assert program.most == (192, 360, 972)
    assert program.largest.shape == (5, 6, 6)


BODY = "c = Conv(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, k)"
WEIGHTS = {"w": noise(4, 3, 3, 3), "k": noise(144, 5)}


def test_one_image_at_a_time_agrees_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, onnx_model(BODY, WEIGHTS))
    together = load(path).notes[-1]
    monkeypatch.setattr("llcert.machine.memory.free_memory", lambda device: 1)
    alone = load(path).notes[-1]
    assert together.split(" on ")[-1] == alone.split(" on ")[-1]


def test_an_image_that_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, onnx_model(BODY, WEIGHTS))
    network = load(path)
    monkeypatch.setattr("llcert.frontend.comparison.free_memory", lambda device: 1000)
    with pytest.raises(UnsupportedModel, match=r"one image takes about .* free; its value 'c' of shape \(4, 6, 6\)"):
        load(path)
    monkeypatch.undo()
    monkeypatch.setattr("llcert.certification.footprint.free_memory", lambda device: 1000)
    with pytest.raises(InvalidInput, match=r"bounds of one image take about .*'c' of shape \(4, 6, 6\).*--assurance"):
        llcert.certify(network, (torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)), eps=0.1)


def test_a_batch_that_is_baked_in_counts_as_a_whole(tmp_path: Path) -> None:
    constants = {"s": ints(4096, 2**18), **D}
    path = written(
        tmp_path, onnx_model("v = Expand(x, s) r = Relu(v) " + HEAD.format("r"), constants, image="float[4096,1] x")
    )
    with pytest.raises(UnsupportedModel, match=r"computes 4096 images at a time.*batch of one"):
        load(path)


def test_a_split_makes_the_parts_that_are_read(tmp_path: Path) -> None:
    constants = {"s": ints(2**18), "k": noise(1, 3)}
    body = "n = ConstantOfShape<value = int64[1] {1}>(s) a, b = Split<axis=1>(x, n) y = MatMul(b, k)"
    path = written(tmp_path, onnx_model(body, constants, image=f"float[N,{2**18}] x"))
    with pytest.raises(UnsupportedModel, match=r"^model\.onnx: "):  # onnxruntime has no such Split
        load(path)
