"""Training data: splits against their definition, batches bit for bit against those of the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import llcert_train.data
from llcert.data import Dataset, load_dataset
from llcert.data.dataset import ArrayImages
from llcert.errors import InvalidInput
from llcert_train.data import TrainingData, generator, order, split_path, stratified

CPU = torch.device("cpu")
LABELS = st.lists(st.integers(0, 5), max_size=80).map(lambda found: np.array(found, np.int64))
SHARES = st.floats(0, 1, exclude_max=True)
SEEDS = st.integers(-5, 1 << 70)


def dataset(values: np.ndarray, scale: float = 1.0) -> Dataset:
    return Dataset("made", "train", ArrayImages(values, scale), np.arange(len(values)) % 3, 3, values.shape[1:])


def every_byte() -> Dataset:
    return dataset(np.random.default_rng(0).permutation(16 * 64).astype(np.uint8).reshape(16, 1, 8, 8), 255.0)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and _bits(found) == _bits(expected)


def _bits(tensor: Tensor) -> bytes:
    return tensor.cpu().numpy().tobytes()


def agrees(data: TrainingData, expected: Dataset) -> bool:
    """Whether batches in a shuffled order are the data set's, rounded to float32, bit for bit."""
    (whole,) = expected.batches(range(len(expected)), len(expected))
    parts = order(seed=0, epoch=1, count=len(expected)).split(5)
    found = [(data.batch(part), part) for part in parts]
    return all(same_bits(x, whole.images[part].float()) and same_bits(y, whole.labels[part]) for (x, y), part in found)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    return tmp_path / "set"


@settings(max_examples=200, deadline=None)
@given(LABELS, SHARES, SEEDS)
def test_both_parts_are_sorted_and_hold_everything_once(labels: np.ndarray, share: float, seed: int) -> None:
    first, second = stratified(labels, share, seed)
    assert first.dtype == second.dtype == np.int64
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert first.tolist() == sorted(first)
    assert second.tolist() == sorted(second)


@settings(max_examples=200, deadline=None)
@given(LABELS, SHARES, SEEDS)
def test_every_class_is_split_as_evenly_as_whole_images_allow(labels: np.ndarray, share: float, seed: int) -> None:
    _, second = stratified(labels, share, seed)
    for label in set(labels.tolist()):
        size, taken = int((labels == label).sum()), int((labels[second] == label).sum())
        allowed = range(1 if size > 1 and share > 0 else 0, size)
        assert taken in allowed
        assert all(abs(taken - share * size) <= abs(other - share * size) + 1e-9 for other in allowed)


@settings(max_examples=100, deadline=None)
@given(LABELS, SHARES, SEEDS, st.permutations(range(6)))
def test_only_which_labels_are_equal_decides_how_many(
    labels: np.ndarray, share: float, seed: int, renamed: list[int]
) -> None:
    other = np.array(renamed)[labels]
    for found, expected in zip(stratified(other, share, seed), stratified(labels, share, seed), strict=True):
        assert found.tolist() == expected.tolist()


def test_a_split_against_a_loop_over_the_classes() -> None:
    labels = np.random.default_rng(1).integers(0, 7, 500)
    keys = np.random.Philox(llcert_train.data._mixed("split", 4)).random_raw(500)
    expected: list[int] = []
    for label in range(7):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=lambda position: keys[position])
        expected += members[: round(0.3 * len(members))]
    assert stratified(labels, 0.3, 4)[1].tolist() == sorted(expected)


def test_seeds_split_differently_and_each_alike() -> None:
    labels = np.zeros(200, np.int64)
    found = [tuple(stratified(labels, 0.2, seed)[1]) for seed in (0, 1, 2, 0)]
    assert found[0] == found[3]
    assert len(set(found)) == 3
    assert len(set(found[0]) & set(found[1])) < 25  # 8 by chance


def test_a_split_stays_the_same_from_version_to_version() -> None:
    assert stratified(np.arange(20) % 2, 0.3, 0)[1].tolist() == [2, 5, 6, 8, 9, 17]


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan"), float("inf")])
def test_shares_outside_their_range_are_refused(share: float) -> None:
    with pytest.raises(InvalidInput, match="share"):
        stratified(np.zeros(3, np.int64), share, 0)


def test_a_path_is_split_into_four_fifths_and_one(pictures: Path) -> None:
    whole = load_dataset(str(pictures))
    train, test = split_path(whole, 0)
    assert (train.split, test.split) == ("train", "test")
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert train.class_names == test.class_names == ("cat", "dog")
    (everything,), (left,), (right,) = (list(part.batches(range(len(part)), 20)) for part in (whole, train, test))
    rows = torch.cat((left.images, right.images)).flatten(1)
    assert torch.equal(rows.unique(dim=0), everything.images.flatten(1).unique(dim=0))


def test_a_path_with_one_image_a_class_cannot_be_split() -> None:
    with pytest.raises(InvalidInput, match="made: no class holds two images"):
        split_path(dataset(np.zeros((3, 4), np.float32)), 0)


def test_bytes_stay_bytes_and_batches_are_those_of_the_set() -> None:
    data = TrainingData.of(every_byte(), CPU)
    assert data.pixels.dtype == torch.uint8
    assert data.pixels.unique().numel() == 256
    assert (data.scale, len(data), data.device) == (255.0, 16, CPU)
    assert agrees(data, every_byte())


@pytest.mark.parametrize("scale", [16.0, 200.0])
def test_bytes_of_another_scale_become_floats(scale: float) -> None:
    source = dataset(np.arange(17 * 5, dtype=np.uint8).reshape(5, 17) % 17, scale)
    data = TrainingData.of(source, CPU)
    assert (data.pixels.dtype, data.scale) == (torch.float32, 1.0)
    assert agrees(data, source)


def test_floats_that_are_bytes_become_bytes() -> None:
    (whole,) = every_byte().batches(range(16), 16)
    source = dataset(whole.images.numpy())
    data = TrainingData.of(source, CPU)
    assert data.pixels.dtype == torch.uint8
    assert agrees(data, source)


@pytest.mark.parametrize("odd", [0.5, -0.0, -1 / 255, 256 / 255, 1.0000001, 2**-149, float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("where", [0, 6, 15])
def test_one_value_that_is_no_byte_makes_all_floats(monkeypatch: pytest.MonkeyPatch, odd: float, where: int) -> None:
    monkeypatch.setattr(llcert_train.data, "_CHUNK", 64 * 4)
    (whole,) = every_byte().batches(range(16), 16)
    values = whole.images.numpy()
    values[where, 0, 3, 3] = odd
    data = TrainingData.of(dataset(values), CPU)
    assert (data.pixels.dtype, data.scale) == (torch.float32, 1.0)
    assert agrees(data, dataset(values))


def test_pictures_are_decoded_once_into_bytes(pictures: Path) -> None:
    source = load_dataset(str(pictures))
    data = TrainingData.of(source, CPU)
    assert data.pixels.dtype == torch.uint8
    assert data.pixels.shape == (20, 3, 6, 5)
    assert agrees(data, source)
    train, _ = split_path(source, 1)
    assert agrees(TrainingData.of(train, CPU), train)


def test_a_damaged_picture_is_named(pictures: Path) -> None:
    broken = pictures / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InvalidInput, match=r"3\.png"):
        TrainingData.of(load_dataset(str(pictures)), CPU)


def test_images_come_in_the_shape_the_set_is_read_in() -> None:
    source = every_byte().reshape((4, 16))
    data = TrainingData.of(source, CPU)
    assert data.pixels.shape == (16, 4, 16)
    assert agrees(data, source)


def test_images_larger_than_a_chunk_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llcert_train.data, "_CHUNK", 3)
    assert agrees(TrainingData.of(every_byte(), CPU), every_byte())


@pytest.mark.parametrize("make", [every_byte, lambda: dataset(np.full((6, 4), 0.3, np.float32))])
def test_batches_and_labels_are_copies(make) -> None:
    source = make()
    data = TrainingData.of(source, CPU)
    for _ in range(2):
        images, labels = data.batch(torch.arange(4))
        images.add_(1)
        labels.add_(1)
    assert agrees(data, source)
    data.labels.add_(1)
    assert source.labels.tolist() == make().labels.tolist()


def test_labels_that_may_not_be_written() -> None:
    source = every_byte()
    source.labels.flags.writeable = False
    assert agrees(TrainingData.of(source, CPU), source)


def test_an_empty_batch() -> None:
    images, labels = TrainingData.of(every_byte(), CPU).batch(torch.arange(0))
    assert images.shape == (0, 1, 8, 8)
    assert labels.shape == (0,)


def free(monkeypatch: pytest.MonkeyPatch, *, host: int, device: int) -> None:
    """Says how many bytes are free on the CPU and elsewhere."""
    monkeypatch.setattr(llcert_train.data, "free_memory", lambda where: host if where.type == "cpu" else device)


@pytest.mark.parametrize(("room", "place"), [(2560, "meta"), (2559, "cpu")])
def test_pixels_go_to_the_device_where_they_take_two_fifths_of_it(monkeypatch, room: int, place: str) -> None:
    free(monkeypatch, host=1 << 30, device=room)
    data = TrainingData.of(every_byte(), torch.device("meta"))
    assert data.pixels.device.type == place
    assert data.labels.device.type == "meta"
    images, labels = data.batch(torch.arange(3))
    assert (images.device.type, images.dtype, images.shape) == ("meta", torch.float32, (3, 1, 8, 8))
    assert (labels.device.type, labels.dtype) == ("meta", torch.int64)


@pytest.mark.parametrize(("value", "room", "said"), [(0.0, 31, "32 bytes and 31"), (0.3, 127, "128 bytes and 127")])
def test_too_little_memory_is_said_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, value: float, room: int, said: str
) -> None:
    free(monkeypatch, host=room, device=0)
    with pytest.raises(InvalidInput, match=rf"^made: its images take {said} bytes are free; train on fewer$"):
        TrainingData.of(dataset(np.full((8, 4), value, np.float32)), CPU)


@pytest.mark.parametrize(
    ("count", "shape", "dtype", "device", "expected"),
    [
        (60_000, (1, 28, 28), torch.uint8, "meta", "60,000 as bytes (45 MiB) on meta"),
        (1_437, (1, 8, 8), torch.float32, "meta", "1,437 as float32 (359 KiB) on meta"),
        (100_000, (3, 64, 64), torch.uint8, "meta", "100,000 as bytes (1.1 GiB) on meta"),
        (6_000_000, (3, 256, 256), torch.uint8, "meta", "6,000,000 as bytes (1,098.6 GiB) on meta"),
        (3, (2,), torch.uint8, "cpu", "3 as bytes (6 bytes) on cpu, copied to meta batch by batch"),
    ],
)
def test_the_sentence(count: int, shape: tuple[int, ...], dtype: torch.dtype, device: str, expected: str) -> None:
    pixels = torch.empty((count, *shape), dtype=dtype, device=device)
    data = TrainingData(pixels, torch.empty(count, device="meta"), 1.0, torch.device("meta"))
    assert data.sentence == f"training images: {expected}"


def test_an_order_is_a_permutation_and_a_function_of_its_arguments() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = order(seed=1, epoch=2, count=1000)
    assert found.dtype == torch.int64
    assert found.sort().values.tolist() == list(range(1000))
    assert torch.equal(order(seed=1, epoch=2, count=1000), found)
    assert torch.equal(torch.get_rng_state(), state), "draws from the global generator"
    assert [len(order(seed=0, epoch=0, count=count)) for count in (0, 1)] == [0, 1]


def test_orders_of_seeds_and_epochs_have_nothing_in_common() -> None:
    chosen = [(seed, epoch) for seed in (*range(6), 10**9, 1 << 40) for epoch in (*range(6), 11)]
    orders = torch.stack([order(seed=seed, epoch=epoch, count=400) for seed, epoch in chosen])
    correlations = torch.corrcoef(orders.double()) - torch.eye(len(chosen))
    assert correlations.abs().max() < 0.3  # six standard deviations
    agreeing = (orders[:, None] == orders).sum(-1) - 400 * torch.eye(len(chosen))
    assert agreeing.max() < 15  # 1 by chance


def test_purposes_have_their_own_numbers() -> None:
    first, second, third = (torch.rand(4, generator=generator(p, seed=1, number=1)).tolist() for p in ("a", "b", "a"))
    assert first == third != second


@pytest.mark.gpu
@pytest.mark.parametrize("room", [1 << 30, 0])
@pytest.mark.parametrize("floats", [False, True])
def test_a_gpu_has_the_same_bits(monkeypatch: pytest.MonkeyPatch, room: int, floats: bool) -> None:
    source = dataset(np.random.default_rng(0).random((16, 3, 8, 8), np.float32)) if floats else every_byte()
    free(monkeypatch, host=1 << 30, device=room)
    data = TrainingData.of(source, torch.device("cuda"))
    assert data.pixels.is_cuda is bool(room)
    assert data.batch(torch.arange(2))[0].is_cuda
    assert agrees(data, source)
