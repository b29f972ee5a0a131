import dataclasses

import numpy as np
import pytest
import torch

from llcert.data import Dataset, load_dataset, select
from llcert.data.dataset import ArrayImages, subset
from llcert.errors import InvalidInput


def bytes_set(count: int = 10) -> Dataset:
    values = (np.arange(count * 6) % 256).astype(np.uint8).reshape(count, 2, 3)
    return Dataset("tiny", "test", ArrayImages(values, 255.0), np.arange(count) % 3, 3, (2, 3))


def test_batches_have_the_promised_types_and_order():
    batches = list(bytes_set().batches(range(2, 9), 3))
    assert [len(batch.images) for batch in batches] == [3, 3, 1]
    first = batches[0]
    assert first.images.dtype == torch.float64
    assert first.labels.dtype == first.indices.dtype == torch.int64
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(2, 9))
    assert first.labels.tolist() == [2, 0, 1]
    assert torch.equal(first.images.flatten(), torch.arange(12, 30, dtype=torch.float64) / 255)


def test_bytes_stay_bytes_until_read():
    data = bytes_set()
    assert isinstance(data.images, ArrayImages)
    assert data.images.values.dtype == np.uint8
    assert data.pixel_range == (0.0, 59 / 255)


def test_batches_do_not_share_memory_with_the_set():
    values = np.zeros((2, 3), np.float32)
    data = Dataset("floats", "test", ArrayImages(values), np.zeros(2, np.int64), 1, (3,))
    next(data.batches(range(2), 2)).images.add_(1)
    assert not values.any()


@pytest.mark.parametrize("indices", [range(-1, 2), range(8, 11), range(10, 11), range(0, 12, 11)])
def test_batches_outside_the_set_are_refused(indices):
    with pytest.raises(InvalidInput, match="does not exist"):
        list(bytes_set().batches(indices, 4))


def test_empty_batches():
    assert list(bytes_set().batches(range(0), 4)) == []
    with pytest.raises(InvalidInput, match="at least 1"):
        list(bytes_set().batches(range(3), 0))


@pytest.mark.parametrize(("low", "high", "outside"), [(0.0, 1.0, False), (-0.1, 1.0, True), (0.0, 1.01, True)])
def test_values_outside_the_unit_range_are_seen(low, high, outside):
    data = Dataset("x", "test", ArrayImages(np.array([[low, high]], np.float32)), np.zeros(1, np.int64), 1, (2,))
    assert (data.pixel_range[0] < 0 or data.pixel_range[1] > 1) is outside


def test_reshape():
    data = bytes_set().reshape((6,))
    assert next(data.batches(range(2), 2)).images.shape == (2, 6)
    with pytest.raises(InvalidInput, match="cannot be read as"):
        data.reshape((5,))
    with pytest.raises(InvalidInput, match="cannot be read as"):
        data.reshape((-2, -3))


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 3], "label 3 is outside"), ([-1, 0], "label -1 is outside"), ([0], "2 images but 1")]
)
def test_labels_are_checked(labels, message):
    with pytest.raises(InvalidInput, match=message):
        Dataset("x", "test", ArrayImages(np.zeros((2, 4), np.uint8), 255.0), np.array(labels), 3, (4,))


def test_no_images():
    with pytest.raises(InvalidInput, match="no images"):
        Dataset("x", "test", ArrayImages(np.zeros((0, 4), np.uint8), 255.0), np.zeros(0, np.int64), 3, (4,))


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda found: np.array(found, np.uint8)])
def test_a_subset_holds_the_chosen_images_in_their_order(kind):
    whole = dataclasses.replace(bytes_set(), class_names=("a", "b", "c"), note="made here")
    part = subset(whole, kind([7, 2, 9, 2]), "train")
    assert (part.name, part.split, part.class_count, part.class_names) == ("tiny", "train", 3, ("a", "b", "c"))
    assert part.note == "made here; 4 of 10 images"
    (everything,) = whole.batches(range(10), 10)
    (found,) = part.batches(range(4), 4)
    assert torch.equal(found.images, everything.images[[7, 2, 9, 2]])
    assert found.labels.tolist() == part.labels.tolist() == [1, 2, 0, 2]
    assert found.indices.tolist() == [0, 1, 2, 3]


def test_a_subset_is_a_set_like_any_other():
    part = subset(bytes_set(), range(9, 3, -1), "train")
    assert part.note == "6 of 10 images"
    assert [batch.labels.tolist() for batch in part.batches(range(1, 5), 3)] == [[2, 1, 0], [2]]
    assert next(part.reshape((6,)).batches(range(2), 2)).images.shape == (2, 6)
    smaller = subset(part, [5, 0], "test")
    assert torch.equal(
        next(smaller.batches(range(2), 2)).images.flatten() * 255, torch.tensor([*range(24, 30), *range(54, 60)])
    )
    with pytest.raises(InvalidInput, match="image 6 does not exist"):
        list(part.batches(range(4, 7), 4))


def test_a_subset_follows_neither_its_positions_nor_the_labels_of_the_whole():
    whole, positions = bytes_set(), np.array([1, 2])
    part = subset(whole, positions, "train")
    positions[:] = 0
    whole.labels[:] = 0
    assert next(part.batches(range(2), 2)).images[0, 0, 0] == 6 / 255
    assert part.labels.tolist() == [1, 2]


def test_a_subset_of_values_outside_the_unit_range():
    data = Dataset("x", "test", ArrayImages(np.array([[0.5], [2.0]], np.float32)), np.zeros(2, np.int64), 1, (1,))
    assert subset(data, [1], "train").pixel_range == (2.0, 2.0)


def test_the_hash_is_of_every_chosen_image_and_label(write):
    def of(values, labels, chosen=range(300), scale=1.0, shape=(2,)):
        return Dataset("x", "test", ArrayImages(values, scale), labels, 3, shape).sha256(chosen)

    values, labels = np.random.default_rng(0).random((400, 2), np.float32), np.arange(400) % 3
    known = {of(values, labels)}
    for place in (0, 7, 255, 256, 299):
        moved, named = values.copy(), labels.copy()
        moved[place, 1] = np.nextafter(moved[place, 1], 1)
        named[place] = (named[place] + 1) % 3
        known |= {of(moved, labels), of(values, named)}
    known |= {of(values.astype(float), labels), of(values, labels, range(1, 301)), of(values, labels, range(299))}
    known |= {of(values, labels, scale=2.0), of(values, labels, shape=(1, 2)), of(values, labels, (*range(299), 300))}
    assert len(known) == 17
    values[300:], labels[300:] = 0, 0
    assert of(values, labels) in known
    part = subset(Dataset("x", "test", ArrayImages(values), labels, 3, (2,)), np.arange(300), "train")
    assert part.sha256(range(300)) in known


def test_the_hash_of_pictures_is_of_their_files(write):
    for number in range(3):
        write.put(f"set/a/{number}.png", write.picture(np.full((2, 2), number, np.uint8)))
    known = load_dataset(str(write.root / "set")).sha256(range(2))
    write.put("set/a/2.png", write.picture(np.full((2, 2), 9, np.uint8)))
    assert load_dataset(str(write.root / "set")).sha256(range(2)) == known
    write.put("set/a/1.png", write.picture(np.full((2, 2), 9, np.uint8)))
    assert load_dataset(str(write.root / "set")).sha256(range(2)) != known


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], "holds no images"),
        ([0, 10], "image 10 does not exist, the last is 9"),
        ([-1], "image -1 does not exist"),
        (np.array([1 << 63], np.uint64), "does not exist"),
        ([0.0], "give whole numbers"),
        ([True] * 10, "give whole numbers"),
        ([[0, 1]], "give whole numbers"),
    ],
)
def test_positions_of_a_subset_are_checked(positions, message):
    with pytest.raises(InvalidInput, match=message):
        subset(bytes_set(), positions, "train")


def test_only_the_chosen_pictures_of_a_subset_are_decoded(write):
    for number in range(4):
        write.put(f"set/a/{number}.png", write.picture(np.full((2, 2), 51 * number, np.uint8)))
    data = load_dataset(str(write.root / "set"))
    part = subset(data, [3, 1], "train")
    for damaged in (0, 2):
        write.put(f"set/a/{damaged}.png", b"")
    (found,) = part.batches(range(2), 2)
    assert torch.equal(found.images[:, 0, 0, 0], torch.tensor([0.6, 0.2], dtype=torch.float64))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, range(10)),
        ("3", range(3)),
        ("10", range(10)),
        ("2:5", range(2, 5)),
        ("2:", range(2, 10)),
        (":4", range(4)),
        (" 9:10 ", range(9, 10)),
    ],
)
def test_select(text, expected):
    assert select(text, 10) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "11", "-1", "5:5", "6:2", "3:11", "a", "1:2:3", "1.5", "1e3", "2:-1", "٣", "9" * 40]
)
def test_select_refuses(text):
    with pytest.raises(InvalidInput, match="samples"):
        select(text, 10)
