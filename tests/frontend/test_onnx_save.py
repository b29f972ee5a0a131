"""Saving: a file that the checker accepts, any batch, the same names, and the same bits when it is read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx_text import noise
from torch import Tensor

from llcert.api import load
from llcert.errors import InvalidInput, UnsupportedModel
from llcert.frontend import writer
from llcert.frontend.onnx_file import save
from llcert.ir import Input, Network, Op, apply, place
from llcert.ops import (
    Add,
    Affine,
    BatchNorm,
    Cast,
    Clamp,
    Concat,
    Conv,
    ConvTranspose,
    Divide,
    Expand,
    GroupSort,
    Leaky,
    Linear,
    MaxMin,
    MaxPool,
    Pad,
    Reduce,
    Reshape,
    Sigmoid,
    SumPool,
    Take,
    Tanh,
    Transpose,
    relu,
)
from llcert.ops.registry import exporters
from llcert.passes import canonicalise

SHAPE = (4, 6, 6)


def number(value: float) -> Tensor:
    return torch.tensor(value)


OPERATORS: dict[str, Op] = {
    "affine": Affine(noise(4, 1, 1), noise(4, 6, 6)),
    "scale": Affine(scale=noise(6)),
    "shift": Affine(shift=noise(4, 1, 6)),
    "batch norm": BatchNorm(noise(4), noise(4), noise(4), noise(4).abs() + 0.1, 1e-3),
    "divide": Divide(noise(4, 1, 1).abs() + 0.1),
    "relu": relu(),
    "relu-theta": Clamp(number(0.0), noise(4, 1, 1).abs()),
    "clip": Clamp(number(-0.5), number(0.5)),
    "crossed clip": Clamp(number(0.5), number(-0.5)),
    "floor": Clamp(low=noise(4, 1, 1)),
    "ceiling": Clamp(high=number(0.25)),
    "zero floors": Clamp(low=torch.zeros(4, 1, 1)),
    "leaky": Leaky(number(0.1)),
    "parametric": Leaky(noise(4, 1, 1)),
    "absolute": Leaky(number(-1.0)),
    "sigmoid": Sigmoid(),
    "tanh": Tanh(),
    "conv": Conv(noise(8, 2, 3, 3), noise(8), (2, 1), (1, 0), (1, 2), 2),
    "transposed conv": ConvTranspose(noise(4, 3, 3, 3), noise(6), (2, 2), (1, 1), (1, 0), (1, 1), 2),
    "linear": Linear(noise(5, 6), noise(5)),
    "linear without bias": Linear(noise(5, 6)),
    "maxmin": MaxMin(0),
    "maxmin pairs": MaxMin(0, True),
    "clipped maxmin": MaxMin(0, False, noise(2, 1, 1).abs(), noise(2, 1, 1)),
    "clipped maxmin pairs": MaxMin(2, True, noise(3).abs(), noise(3)),
    "group sort": GroupSort(0, 2),
    "group sort, descending": GroupSort(1, 3, True),
    "full sort": GroupSort(2, 6),
    "max pool": MaxPool((3, 2), (2, 1), ((1, 0), (0, 1)), (1, 2)),
    "reshape": Reshape((8, 18)),
    "transpose": Transpose((2, 0, 1)),
    "take": Take(1, (5, 0, 0, 3)),
    "slice": Take(2, (1, 3, 5)),
    "pad": Pad(((0, 1), (2, 0), (1, 1)), 0.5),
    "expand": Expand((2, 4, 6, 6)),
    "sum": Reduce((0,)),
    "mean": Reduce((1, 2), 1 / 36),
    "weighted sum": Reduce((1, 2), 0.25),
    "average": SumPool((2, 3), (2, 1), 1 / 6),
    "sum over windows": SumPool((2, 2), (2, 2), 1.0),
    "add": Add(),
    "concat": Concat(1),
}
NOT_SPELLED_ALIKE = {"expand": "new axes are a Reshape of their own"}


def network(op: Op, dtype: torch.dtype = torch.float32) -> Network:
    """The operator behind a dense layer, a flatten and another one, so that nothing merges with it."""
    image = apply(Input(SHAPE, dtype), name="image")
    z = apply(Conv(noise(4, 4, 1, 1)), image)
    values = [z, apply(Tanh(), z)] if isinstance(op, Add | Concat) else [z]
    z = apply(Tanh(), apply(op, *values, name="layer"))
    flat = apply(Reshape((z.op(torch.zeros(1, *z.shape)).numel(),)), z)
    logits = apply(Linear(noise(3, *flat.shape), noise(3)), flat)
    return Network(canonicalise(place(logits, "cpu", dtype)), metadata={"eps": "0.5"}, source="test")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_read_back_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    saved = network(OPERATORS[name], dtype)
    save(saved, tmp_path / "saved.onnx")
    read = load(tmp_path / "saved.onnx")
    images = noise(3, *SHAPE).to(dtype)
    assert read.dtype == dtype
    assert torch.equal(read(images), saved(images))
    assert dict(read.metadata) == {"eps": "0.5"}
    if name not in NOT_SPELLED_ALIKE:
        assert [type(n.op) for n in read.operators()] == [type(n.op) for n in saved.operators()]


def test_every_operator_is_tried() -> None:
    assert set(exporters) == {type(op) for op in OPERATORS.values()} | {Cast}


def test_every_value_is_written_in_its_own_format(tmp_path: Path) -> None:
    wide = apply(Cast(torch.float64), apply(Linear(noise(4, 3), noise(4)), apply(Input((3,)))))
    thirds = torch.full((2,), 1 / 3, dtype=torch.float64)
    logits = apply(Cast(torch.float32), apply(Linear(noise(2, 4).double(), thirds), wide))
    saved = Network(canonicalise(logits))
    save(saved, tmp_path / "mixed.onnx")
    read = load(tmp_path / "mixed.onnx")
    formats = {t.name: t.data_type for t in onnx.load(tmp_path / "mixed.onnx").graph.initializer}
    assert sorted(formats.values()) == [TensorProto.FLOAT] * 2 + [TensorProto.DOUBLE] * 2
    assert [n.dtype for n in read.operators()] == [n.dtype for n in saved.operators()]
    assert read.output.dtype == torch.float32
    images = noise(3, 3).double()
    assert torch.equal(read(images), saved(images))


def test_other_tools_run_the_file_on_any_batch(tmp_path: Path) -> None:
    saved = network(OPERATORS["maxmin pairs"])
    save(saved, tmp_path / "saved.onnx")
    onnx.checker.check_model(str(tmp_path / "saved.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "saved.onnx", providers=["CPUExecutionProvider"])
    images = noise(5, *SHAPE)
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    assert torch.allclose(torch.from_numpy(logits), saved(images), atol=1e-4)


def test_names_that_collide_stay_apart(tmp_path: Path) -> None:
    image = apply(Input((4,)), name="x")
    hidden = apply(relu(), apply(Linear(noise(4, 4)), image, name="logits"), name="x")
    saved = Network(apply(Linear(noise(2, 4)), hidden, name="x"), input_name="x", output_name="logits")
    save(saved, tmp_path / "saved.onnx")
    assert torch.equal(load(tmp_path / "saved.onnx")(noise(2, 4)), saved(noise(2, 4)))


def test_a_network_of_nothing_is_written(tmp_path: Path) -> None:
    save(Network(apply(Input((4,)), name="image")), tmp_path / "saved.onnx")
    assert torch.equal(load(tmp_path / "saved.onnx")(noise(2, 4)), noise(2, 4))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        save(network(OPERATORS["conv"]), tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "saved.onnx"
    save(network(OPERATORS["relu"]), path)
    before = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.os, "fsync", fails)
    with pytest.raises(InvalidInput, match=r"saved\.onnx: cannot be written \(No space left on device\)"):
        save(network(OPERATORS["tanh"]), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["saved.onnx"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere/saved\.onnx: cannot be written"):
        save(network(OPERATORS["relu"]), tmp_path / "nowhere" / "saved.onnx")


def test_what_has_no_spelling_is_named(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Strange(Op):
        def __call__(self, *values: Tensor) -> Tensor:
            return values[0]

    with pytest.raises(UnsupportedModel, match="Strange 'odd' has no ONNX spelling"):
        save(Network(apply(Strange(), apply(Input((4,))), name="odd")), tmp_path / "saved.onnx")


def test_files_over_two_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_LARGEST_FILE", 1000)
    with pytest.raises(UnsupportedModel, match="larger than 2 GB"):
        save(network(OPERATORS["relu"]), tmp_path / "saved.onnx")
