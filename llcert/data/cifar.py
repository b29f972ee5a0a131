"""`cifar10` and `cifar100`: the official binary and python versions, loose or in their archives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llcert.data.archive import read_tar
from llcert.data.dataset import ArrayImages, Dataset, Labels, Pixels
from llcert.data.pickles import read_pickle
from llcert.data.reading import COMPRESSED, read_file
from llcert.data.store import Remote, Store
from llcert.errors import InvalidInput

_SHAPE = (3, 32, 32)
_PIXELS = 3072
_PART_LIMIT = 256 << 20  # the largest official part holds 155,248,660 bytes
_ARCHIVE_LIMIT = 512 << 20
_ENDINGS = (".tar.gz", ".tar.xz")

Records = tuple[Pixels, Labels]


@dataclass(frozen=True)
class CifarSet:
    """One of the two data sets.

    folders: below the root, the first is where downloads go.
    archive: the name of the archives, up to `-binary` and `-python`.
    parts: by split, the files' names in the python version; those of the binary version end in `.bin`.
    label_bytes: labels in front of each record of the binary version; the last one counts.
    label_key: of the python version.
    """

    name: str
    folders: tuple[str, ...]
    archive: str
    digest: str
    parts: dict[str, tuple[str, ...]]
    class_count: int
    class_names: tuple[str, ...] | None
    label_bytes: int
    label_key: str

    def load(self, split: str, store: Store) -> Dataset:
        """`[3, 32, 32]`, 256 levels; 50,000 images for training, 10,000 for testing."""
        parts, source = self._parts(split, store)
        images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        note = f"{source}; {self.name} (Krizhevsky 2009), no explicit licence"
        pixels = ArrayImages(images.reshape(-1, *_SHAPE), 255.0)
        return Dataset(self.name, split, pixels, labels, self.class_count, _SHAPE, self.class_names, note)

    def _parts(self, split: str, store: Store) -> tuple[list[Records], Path]:
        for place in store.places(self.folders):
            for ending, read in (".bin", self.read_binary), ("", self.read_python):
                names = [part + ending for part in self.parts[split]]
                if loose := _loose(place, names):
                    return [read(read_file(path, _PART_LIMIT, self.name), path) for path in loose], place
        for version, ending, read in (("binary", ".bin", self.read_binary), ("python", "", self.read_python)):
            archive = store.find(self.folders, [f"{self.archive}-{version}{tar}" for tar in _ENDINGS])
            if archive is not None:
                return _from_archive(archive, [part + ending for part in self.parts[split]], read), archive
        filename = f"{self.archive}-binary.tar.gz"
        url = f"https://www.cs.toronto.edu/~kriz/{filename}"
        archive = store.fetch(Remote(filename, (url,), self.digest, _PART_LIMIT), self.folders[0])
        return _from_archive(archive, [f"{part}.bin" for part in self.parts[split]], self.read_binary), archive

    def read_binary(self, content: bytes, path: Path | str) -> Records:
        """Images `[images, 3072]` and labels of a binary file."""
        size = self.label_bytes + _PIXELS
        if not content or len(content) % size:
            raise InvalidInput(f"{path}: {len(content):,} bytes are not a whole number of records of {size} bytes")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, self.label_bytes :], self._checked(records[:, self.label_bytes - 1], path)

    def read_python(self, content: bytes, path: Path | str) -> Records:
        """Images `[images, 3072]` and labels of a python file."""
        loaded = read_pickle(content, path)
        images, labels = loaded.get("data"), loaded.get(self.label_key)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (_PIXELS,):
            raise InvalidInput(f"{path}: 'data' is not an array of bytes [images, {_PIXELS}]")
        if isinstance(labels, np.ndarray):
            labels = labels.tolist()
        if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
            raise InvalidInput(f"{path}: {self.label_key!r} is not a list of whole numbers")
        if len(labels) != len(images) or not labels:
            raise InvalidInput(f"{path}: {len(images)} images but {len(labels)} labels")
        return images, self._checked(np.array(labels), path)

    def _checked(self, labels: Pixels, path: Path | str) -> Labels:
        for label in labels.min(), labels.max():
            if not 0 <= label < self.class_count:
                raise InvalidInput(f"{path}: label {label} is outside 0 .. {self.class_count - 1}")
        return labels.astype(np.int64)


def _loose(place: Path, names: list[str]) -> list[Path]:
    """The files of these names in the folder, each plain or compressed; none where one is missing."""
    found = []
    for name in names:
        path = next((place / (name + ending) for ending in COMPRESSED if (place / (name + ending)).is_file()), None)
        if path is None:
            return []
        found.append(path)
    return found


def _from_archive(archive: Path, names: list[str], read: Callable[[bytes, Path | str], Records]) -> list[Records]:
    members = read_tar(
        archive, lambda member: member.split("/")[-1] in names, member_limit=_PART_LIMIT, total_limit=_ARCHIVE_LIMIT
    )
    contents = {member.split("/")[-1]: content for member, content in members.items()}
    for name in names:
        if name not in contents:
            raise InvalidInput(f"{archive}: holds no {name}")
    return [read(contents[name], f"{archive}/{name}") for name in names]


CIFAR10 = CifarSet(
    name="cifar10",
    folders=(
        "cifar10",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "cifar10/cifar-10-batches-bin",
        "cifar10/cifar-10-batches-py",
        "CIFAR10",
        "CIFAR10/cifar-10-batches-bin",
        "CIFAR10/cifar-10-batches-py",
        ".",
    ),
    archive="cifar-10",
    digest="md5:c32a1d4ab5d03f1284b67883e8d87530",
    parts={"train": tuple(f"data_batch_{part}" for part in range(1, 6)), "test": ("test_batch",)},
    class_count=10,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    label_bytes=1,
    label_key="labels",
)

CIFAR100 = CifarSet(
    name="cifar100",
    folders=(
        "cifar100",
        "cifar-100-binary",
        "cifar-100-python",
        "cifar100/cifar-100-binary",
        "cifar100/cifar-100-python",
        "CIFAR100",
        "CIFAR100/cifar-100-binary",
        "CIFAR100/cifar-100-python",
        ".",
    ),
    archive="cifar-100",
    digest="md5:03b5dce01913d631647c71ecec9e9cb8",
    parts={"train": ("train",), "test": ("test",)},
    class_count=100,
    class_names=None,
    label_bytes=2,
    label_key="fine_labels",
)
