import pickle

import numpy as np
import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput


def load(write, name="cifar10", split="test"):
    return load_dataset(name, split=split, root=write.root, download=False)


def same(data, images, labels) -> bool:
    batch = next(data.batches(range(len(data)), 1000))
    return torch.equal(batch.images, torch.from_numpy(images).double() / 255) and batch.labels.tolist() == list(labels)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."])
def test_binary_version(write, folder, ending):
    content, images, labels = write.cifar_records()
    write.compressed(f"{folder}/test_batch.bin{ending}", content)
    data = load(write)
    assert same(data, images, labels)
    assert data.image_shape == (3, 32, 32)
    assert data.class_names[0] == "airplane"


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
@pytest.mark.parametrize("protocol", range(6))
def test_python_version(write, protocol, ending):
    content, images, labels = write.cifar_pickle(protocol=protocol)
    write.compressed(f"cifar-10-batches-py/test_batch{ending}", content)
    assert same(load(write), images, labels)


def test_training_batches_are_joined_in_order(write):
    parts = [write.cifar_records(count=2) for _ in range(5)]
    for number, (content, _, _) in enumerate(parts, start=1):
        write.compressed(f"cifar10/data_batch_{number}.bin{'.xz' if number % 2 else ''}", content)
    data = load(write, split="train")
    assert same(data, np.concatenate([images for _, images, _ in parts]), [y for _, _, ys in parts for y in ys])


def test_an_incomplete_copy_is_not_taken_for_the_whole(write):
    for number in (1, 2, 4, 5):
        write.put(f"cifar10/data_batch_{number}.bin", write.cifar_records()[0])
    with pytest.raises(InvalidInput, match=r"cifar-10-binary\.tar\.gz is not in"):
        load(write, split="train")


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("folder", ["cifar10", "."])
def test_archives(write, folder, version):
    content, images, labels = write.cifar_records() if version == "binary" else write.cifar_pickle()
    name = "cifar-10-batches-bin/test_batch.bin" if version == "binary" else "cifar-10-batches-py/test_batch"
    members = {"cifar-10-batches/readme.html": b"<html>", name: content}
    write.put(f"{folder}/cifar-10-{version}.tar.gz", write.tar(members))
    assert same(load(write), images, labels)


def test_an_archive_without_the_part(write):
    write.put("cifar10/cifar-10-binary.tar.gz", write.tar({"readme.html": b""}))
    with pytest.raises(InvalidInput, match=r"holds no test_batch.bin"):
        load(write)


def test_cifar100_counts_fine_labels(write):
    content, images, labels = write.cifar_records(classes=100, label_bytes=2)
    write.put("cifar-100-binary/test.bin", content)
    data = load(write, "cifar100")
    assert same(data, images, labels)
    assert data.class_count == 100


def test_cifar100_python(write):
    content, images, labels = write.cifar_pickle(classes=100, key=b"fine_labels")
    write.put("cifar100/cifar-100-python/train", content)
    assert same(load(write, "cifar100", "train"), images, labels)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 3073 * 2 - 1])
def test_whole_records_only(write, size):
    write.put("cifar10/test_batch.bin", bytes(size))
    with pytest.raises(InvalidInput, match="whole number of records"):
        load(write)


def test_binary_labels_are_checked(write):
    write.put("cifar10/test_batch.bin", b"\x0a" + bytes(3072))
    with pytest.raises(InvalidInput, match="label 10 is outside"):
        load(write)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"data": np.zeros((2, 3071), np.uint8)}, "'data' is not"),
        ({b"data": [1, 2]}, "'data' is not"),
        ({b"data": np.zeros((2, 3072), np.int64)}, "'data' is not"),
        ({b"labels": [1]}, "2 images but 1"),
        ({b"labels": [1, 10]}, "label 10 is outside"),
        ({b"labels": [1, -1]}, "label -1 is outside"),
        ({b"labels": [1, 1 << 70]}, "whole numbers"),
        ({b"labels": [1, 1.5]}, "whole numbers"),
        ({b"labels": [True, False]}, "whole numbers"),
        ({b"labels": "12"}, "whole numbers"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "0 images"),
    ],
)
def test_python_contents_are_checked(write, changes, message):
    content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]} | changes
    write.put("cifar10/test_batch", pickle.dumps(content, 4))
    with pytest.raises(InvalidInput, match=message):
        load(write)
