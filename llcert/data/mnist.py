"""`mnist` and `fashion-mnist`: the four official idx files, plain or compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llcert.data.dataset import ArrayImages, Dataset, Labels
from llcert.data.reading import COMPRESSED, read_file
from llcert.data.store import Remote, Store
from llcert.errors import InvalidInput

_LIMIT = 64 << 20  # the largest official file holds 47,040,016 bytes
_SIDE = 28
_CLASSES = 10
_STEMS = {"train": "train", "test": "t10k"}
_KINDS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
_UBYTE = b"\x00\x00\x08"


@dataclass(frozen=True)
class IdxSet:
    """One data set in the layout of MNIST.

    folders: below the root, the first is where downloads go.
    digests: of the four official `.gz` files, by stem.
    """

    name: str
    folders: tuple[str, ...]
    addresses: tuple[str, ...]
    digests: dict[str, str]
    class_names: tuple[str, ...]
    note: str

    def load(self, split: str, store: Store) -> Dataset:
        """`[1, 28, 28]`, 256 grey levels; 60,000 images for training, 10,000 for testing."""
        images_path = self._locate(f"{_STEMS[split]}-{_KINDS['images']}", store)
        labels_path = self._locate(f"{_STEMS[split]}-{_KINDS['labels']}", store)
        images, labels = read_images(images_path), read_labels(labels_path)
        if len(images) != len(labels):
            raise InvalidInput(f"{images_path}: {len(images)} images, but {labels_path} holds {len(labels)} labels")
        note = f"{images_path}; {self.note}"
        pixels = ArrayImages(images, 255.0)
        return Dataset(self.name, split, pixels, labels, _CLASSES, (1, _SIDE, _SIDE), self.class_names, note)

    def _locate(self, stem: str, store: Store) -> Path:
        spellings = (stem, stem.replace("-idx", ".idx"))
        found = store.find(self.folders, [name + ending for ending in COMPRESSED for name in spellings])
        if found is not None:
            return found
        filename = f"{stem}.gz"
        urls = tuple(address + filename for address in self.addresses)
        return store.fetch(Remote(filename, urls, self.digests[stem], _LIMIT), self.folders[0])


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of bytes that an idx file of so many dimensions holds; InvalidInput where it is none."""
    content = read_file(path, _LIMIT, "idx file")
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != _UBYTE + bytes([dimensions]):
        raise InvalidInput(f"{path}: does not start like an idx file of bytes in {dimensions} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4))
    if math.prod(shape) != len(content) - start:
        raise InvalidInput(
            f"{path}: announces {math.prod(shape):,} values {list(shape)}, holds {len(content) - start:,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_images(path: Path) -> npt.NDArray[np.uint8]:
    """Images `[images, 1, 28, 28]` of an idx file."""
    images = read_idx(path, 3)
    if images.shape[1:] != (_SIDE, _SIDE) or not len(images):
        raise InvalidInput(f"{path}: {len(images)} images of {list(images.shape[1:])}; expected some, of [28, 28]")
    return images[:, None]


def read_labels(path: Path) -> Labels:
    """Labels `[images]` of an idx file."""
    labels = read_idx(path, 1)
    if len(labels) and labels.max() >= _CLASSES:
        raise InvalidInput(f"{path}: label {labels.max()} is outside 0 .. {_CLASSES - 1}")
    return labels.astype(np.int64)


MNIST = IdxSet(
    name="mnist",
    folders=("mnist", "MNIST/raw", "MNIST", "."),
    addresses=(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    digests={
        "train-images-idx3-ubyte": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    class_names=tuple(str(digit) for digit in range(_CLASSES)),
    note="MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
)

FASHION_MNIST = IdxSet(
    name="fashion-mnist",
    folders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "."),
    addresses=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
    digests={
        "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    class_names=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    note="Fashion-MNIST (Zalando), MIT licence",
)
