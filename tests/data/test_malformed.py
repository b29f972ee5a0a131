"""A hundred damaged data files: each is refused in one line, or loads as valid images and labels; nothing else happens.

Damage is done to the bytes as they lie and, for compressed formats, also inside, where no checksum notices it.
"""

import gzip
import io
import lzma
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput

COUNT = 100
SECONDS = 120


@dataclass(frozen=True)
class Case:
    """One format: `plain` bytes, how they are `packed` into the file `target`, what stands beside it, its name."""

    target: str
    plain: bytes
    name: str
    packed: Callable[[bytes], bytes] = bytes
    beside: tuple[tuple[str, bytes], ...] = ()
    split: str = "test"


def cases(write) -> list[Case]:
    images, labels = write.idx(write.bytes_of(4, 28, 28)), write.idx(write.labels_of(4))
    idx = ("mnist/t10k-images-idx3-ubyte", "mnist/t10k-labels-idx1-ubyte")
    binary, pickled = write.cifar_records(2)[0], write.cifar_pickle(2)[0]
    tiny = write.tiny_imagenet(1)
    picture, jpeg = (write.picture(write.bytes_of(16, 16, 3), kind) for kind in ("PNG", "JPEG"))
    other = (("set/b/1.png", write.picture(write.bytes_of(16, 16, 3))),)
    arrays = write.npz(x=write.rng.random((4, 2, 3)), y=write.labels_of(4))
    prop = write.vnnlib([0.1, 0.2, 0.3], [0.2, 0.4, 0.6], classes=4).encode()

    def tiny_with(name: str) -> Callable[[bytes], bytes]:
        return lambda content: write.tar(tiny | {f"tiny-imagenet-200/{name}": content})

    def tiny_part(name: str) -> bytes:
        return tiny[f"tiny-imagenet-200/{name}"]

    archive = "tiny-imagenet/tiny-imagenet-200"
    return [
        Case(idx[0], images, "mnist", beside=((idx[1], labels),)),
        Case(idx[1], labels, "mnist", beside=((idx[0], images),)),
        Case(f"{idx[0]}.gz", gzip.compress(images), "mnist", beside=((idx[1], labels),)),
        Case(f"{idx[0]}.gz", images, "mnist", gzip.compress, ((idx[1], labels),)),
        Case("cifar10/test_batch.bin", binary, "cifar10"),
        Case("cifar10/test_batch.bin.xz", lzma.compress(binary), "cifar10"),
        Case("cifar10/cifar-10-binary.tar.gz", write.tar({"b/test_batch.bin": binary}), "cifar10"),
        Case("cifar10/cifar-10-binary.tar.gz", write.tar({"b/test_batch.bin": binary}, "w"), "cifar10", gzip.compress),
        Case("cifar10/test_batch", pickled, "cifar10"),
        Case("cifar10/test_batch", write.cifar_pickle(2, protocol=4)[0], "cifar10"),
        Case("cifar10/test_batch", write.cifar_pickle(1, protocol=0)[0], "cifar10"),
        Case("cifar100/test", write.cifar_pickle(2, 100, b"fine_labels")[0], "cifar100"),
        Case("cifar100/test.bin", write.cifar_records(2, 100, 2)[0], "cifar100"),
        Case(f"{archive}.zip", write.zip(tiny), "tiny-imagenet"),
        Case(f"{archive}.zip", write.zip(tiny), "tiny-imagenet", split="train"),
        Case(f"{archive}.tar.gz", write.tar(tiny), "tiny-imagenet"),
        Case(f"{archive}.tar.gz", write.tar(tiny, "w"), "tiny-imagenet", gzip.compress, split="train"),
        Case(f"{archive}.tar.gz", tiny_part("wnids.txt"), "tiny-imagenet", tiny_with("wnids.txt")),
        Case(
            f"{archive}.tar.gz",
            tiny_part("val/val_annotations.txt"),
            "tiny-imagenet",
            tiny_with("val/val_annotations.txt"),
        ),
        Case(
            f"{archive}.tar.gz", tiny_part("val/images/val_2.JPEG"), "tiny-imagenet", tiny_with("val/images/val_2.JPEG")
        ),
        Case("data.npz", arrays, "data.npz"),
        Case("data.npz", write.npz(x=write.bytes_of(4, 9), y=write.labels_of(4)), "data.npz"),
        Case("set/a/1.png", picture, "set", beside=other),
        Case("set/a/1.jpg", jpeg, "set", beside=other),
        Case("set/a/1.bmp", write.picture(write.bytes_of(16, 16, 3), "BMP"), "set", beside=other),
        Case("p.vnnlib", prop, "p.vnnlib"),
        Case("p.vnnlib.gz", gzip.compress(prop), "p.vnnlib.gz"),
        Case("p.vnnlib.gz", prop, "p.vnnlib.gz", gzip.compress),
        *npz_members(write),
        *parquet_files(write),
    ]


def npz_members(write) -> Iterator[Case]:
    header = io.BytesIO()
    np.save(header, write.rng.random((2, 3)))
    label = io.BytesIO()
    np.save(label, np.array([0, 1]))
    for name, content, rest in (("x", header, label), ("y", label, header)):
        other = "xy"[name == "x"]
        yield Case(
            "data.npz",
            content.getvalue(),
            "data.npz",
            lambda bent, name=name, other=other, rest=rest: write.zip(
                {f"{name}.npy": bent, f"{other}.npy": rest.getvalue()}
            ),
        )


def parquet_files(write) -> Iterator[Case]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return
    pictures = [write.picture(write.bytes_of(4, 4, 3)) for _ in range(2)]
    for column in (write.rng.random((2, 6)).tolist(), pictures):
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": column, "y": [0, 1]}), stream)
        yield Case("data.parquet", stream.getvalue().to_pybytes(), "data.parquet")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes cut short, overwritten, stretched, or with some of them lost."""
    bent = bytearray(content)
    # headers are where damage matters most, so half of it goes there
    reach = len(bent) if rng.random() < 0.5 else min(len(bent), 64)
    at = int(rng.integers(reach))
    span = int(rng.integers(1, 9))
    match int(rng.integers(7)):
        case 0:
            del bent[at:]
        case 1:
            bent[at : at + span] = rng.bytes(span)
        case 2:
            bent[at : at + span] = b"\xff" * span
        case 3:
            bent[at : at + span] = bytes(span)
        case 4:
            bent[at:at] = rng.bytes(span)
        case 5:
            del bent[at : at + span]
        case 6:
            for place in rng.integers(reach, size=8):
                bent[place % max(1, len(bent))] ^= 1 << int(rng.integers(8))
    return bytes(bent)


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Turns a hang into a failure. Far above what any case takes on a slow machine."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader hangs")

    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def attempt(write, case: Case, content: bytes) -> str:
    """How loading the content ended: `refused` or `loaded`; anything else is raised."""
    for name, beside in case.beside:
        write.put(name, beside)
    path = write.put(case.target, content)
    name = str(write.root / case.name) if case.name.startswith(("data", "set", "p.")) else case.name
    try:
        with no_longer_than(SECONDS):
            data = load_dataset(name, split=case.split, root=write.root, download=False)
            batches = list(data.batches(range(len(data)), 3))
    except InvalidInput as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    finally:
        for written in (path, *(write.root / beside for beside, _ in case.beside)):
            written.unlink()
    for batch in batches:
        assert batch.images.dtype in (torch.float32, torch.float64)
        assert batch.images.shape[1:] == data.image_shape
        assert torch.isfinite(batch.images).all()
        assert ((batch.labels >= 0) & (batch.labels < data.class_count)).all()
    return "loaded"


@pytest.fixture(scope="module")
def formats(writers_below, tmp_path_factory) -> list[Case]:
    return cases(writers_below(tmp_path_factory.mktemp("formats")))


def test_undamaged_files_load(write, formats):
    assert {attempt(write, case, case.packed(case.plain)) for case in formats} == {"loaded"}


@pytest.mark.parametrize("seed", range(COUNT))
def test_damage_is_refused_or_harmless(write, formats, seed):
    case = formats[seed % len(formats)]
    content = damaged(case.plain, np.random.default_rng(seed))
    assert attempt(write, case, case.packed(content)) in ("refused", "loaded")
