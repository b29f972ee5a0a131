import gzip

import numpy as np
import pytest
import torch

from llcert.data import load_dataset
from llcert.errors import InvalidInput


def load(write, name="mnist", split="test"):
    return load_dataset(name, split=split, root=write.root, download=False)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
def test_layouts_and_compressions(write, folder, ending):
    images, labels = write.mnist(folder, ending=ending)
    data = load(write)
    batch = next(data.batches(range(len(data)), 100))
    assert torch.equal(batch.images, torch.from_numpy(images).double() / 255)
    assert batch.labels.tolist() == labels.tolist()
    assert data.image_shape == (1, 28, 28)
    assert data.class_count == 10
    assert str(write.root) in data.note


def test_the_dotted_spelling_and_the_training_split(write):
    _, labels = write.mnist(stem="train", dot=".", ending="")
    assert load(write, split="train").labels.tolist() == labels.tolist()


def test_fashion_mnist_has_its_own_folder(write):
    write.mnist("mnist")
    _, labels = write.mnist("FashionMNIST/raw", count=4)
    data = load(write, "fashion-mnist")
    assert data.labels.tolist() == labels.tolist()
    assert data.class_names[-1] == "ankle boot"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 28, 28)), np.zeros(2), "3 images, but"),
        (np.zeros((0, 28, 28)), np.zeros(0), "0 images"),
        (np.zeros((3, 28, 27)), np.zeros(3), r"\[28, 27\]"),
        (np.zeros((3, 28, 28)), np.array([0, 10, 1]), "label 10 is outside"),
        (np.zeros((3, 784)), np.zeros(3), "3 dimensions"),
    ],
)
def test_contents_are_checked(write, images, labels, message):
    write.put("mnist/t10k-images-idx3-ubyte", write.idx(images))
    write.put("mnist/t10k-labels-idx1-ubyte", write.idx(labels))
    with pytest.raises(InvalidInput, match=message):
        load(write)


def test_wrong_magic_truncation_and_trailing_bytes(write):
    write.mnist(ending="")
    path = write.root / "mnist/t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    for content in (b"", whole[:3], b"\x00\x00\x0d\x03" + whole[4:], whole[:-1], whole + b"\x00"):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"idx|announces"):
            load(write)


def test_a_bomb_is_not_decompressed(write):
    write.mnist()
    write.put("mnist/t10k-images-idx3-ubyte.gz", gzip.compress(bytes(65 << 20), 1))
    with pytest.raises(InvalidInput, match="too much"):
        load(write)


def test_what_is_missing_is_named_with_its_address(write):
    with pytest.raises(InvalidInput, match=r"t10k-images-idx3-ubyte.gz is not in .* https://"):
        load(write)
