"""`tiny-imagenet`: the official folders of JPEGs, as they lie or inside their archive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from llcert.data.archive import read_tar, read_zip
from llcert.data.dataset import Dataset
from llcert.data.pictures import EncodedImages
from llcert.data.reading import decode_text, read_file
from llcert.data.store import Remote, Store
from llcert.errors import InvalidInput

_TOP = "tiny-imagenet-200"
_FOLDERS = ("tiny-imagenet", "tiny-imagenet-200", "tiny_imagenet", "TinyImageNet", ".")
_SHAPE = (3, 64, 64)
_FILE_LIMIT = 16 << 20
_ARCHIVE_LIMIT = 1 << 30
_WNID = re.compile(r"n[0-9]{8}")
_PICTURE = re.compile(r"[A-Za-z0-9_]+\.JPEG")
_NOTE = "Tiny-ImageNet (Stanford CS231N), research terms of ImageNet; classes in the order of wnids.txt"
_REMOTE = Remote(
    filename=f"{_TOP}.zip",
    urls=(f"https://cs231n.stanford.edu/{_TOP}.zip", f"http://cs231n.stanford.edu/{_TOP}.zip"),
    digest="md5:90528d7ca1a48142e341f4ef8d21d0de",
    size=248_100_043,
)


class _Files(Protocol):
    """The tree below `tiny-imagenet-200`; names have `/` between their parts."""

    @property
    def path(self) -> Path:
        """The folder or the archive."""

    def names(self, below: str) -> list[str]:
        """The files directly below a folder."""

    def read(self, names: list[str]) -> list[bytes]: ...


@dataclass(frozen=True)
class _Folder:
    path: Path

    def names(self, below: str) -> list[str]:
        place = self.path / below
        return [f"{below}/{entry.name}" for entry in place.iterdir()] if place.is_dir() else []

    def read(self, names: list[str]) -> list[bytes]:
        return [read_file(self.path / name, _FILE_LIMIT, "file") for name in names]


@dataclass(frozen=True)
class _Archive:
    """An archive read once. members: content by name below the top folder, still encoded as JPEG."""

    path: Path
    members: dict[str, bytes]

    def names(self, below: str) -> list[str]:
        return [name for name in self.members if name.rpartition("/")[0] == below]

    def read(self, names: list[str]) -> list[bytes]:
        for name in names:
            if name not in self.members:
                raise InvalidInput(f"{self.path}: holds no {name}")
        return [self.members[name] for name in names]


def load_tiny_imagenet(split: str, store: Store) -> Dataset:
    """`[3, 64, 64]`, 200 classes; 100,000 images for training, the 10,000 of validation for testing.

    The official test images have no labels. Labels count in the order of `wnids.txt`; grey pictures become RGB.
    """
    files = _locate("train" if split == "train" else "val", store)
    wnids = _wnids(files)
    names, labels = _training(files, wnids) if split == "train" else _validation(files, wnids)
    images = EncodedImages(tuple(names), files.read, _SHAPE)
    counted = np.array(labels, dtype=np.int64)
    note = f"{files.path}; {_NOTE}"
    return Dataset("tiny-imagenet", split, images, counted, len(wnids), _SHAPE, tuple(wnids), note)


def _locate(part: str, store: Store) -> _Files:
    """The tree that holds `train` or `val`."""
    for place in store.places(_FOLDERS):
        for top in (place / _TOP, place):
            if (top / "wnids.txt").is_file() and (top / part).is_dir():
                return _Folder(top)
    names = [f"{_TOP}{middle}{end}" for middle in ("", f"-{part}") for end in (".zip", ".tar.gz")]
    return _open(store.find(_FOLDERS, names) or store.fetch(_REMOTE, _FOLDERS[0]), part)


def _open(path: Path, part: str) -> _Archive:
    top = f"{_TOP}/"

    def wanted(name: str) -> bool:
        return name == f"{top}wnids.txt" or name.startswith(f"{top}{part}/")

    read = read_zip if path.suffix == ".zip" else read_tar
    contents = read(path, wanted, member_limit=_FILE_LIMIT, total_limit=_ARCHIVE_LIMIT)
    return _Archive(path, {name.removeprefix(top): content for name, content in contents.items()})


def _lines(files: _Files, name: str) -> list[str]:
    text = decode_text(files.read([name])[0], f"{files.path}/{name}")
    return [line for line in text.splitlines() if line.strip()]


def _wnids(files: _Files) -> list[str]:
    wnids = [line.strip() for line in _lines(files, "wnids.txt")]
    for wnid in wnids:
        if not _WNID.fullmatch(wnid):
            raise InvalidInput(f"{files.path}/wnids.txt: {wnid[:40]!r} is not a WordNet id")
    if not wnids or len(set(wnids)) != len(wnids):
        raise InvalidInput(f"{files.path}/wnids.txt: empty, or a class is listed twice")
    return wnids


def _validation(files: _Files, wnids: list[str]) -> tuple[list[str], list[int]]:
    """Names and labels in the order of the annotations."""
    order = {wnid: label for label, wnid in enumerate(wnids)}
    names, labels = [], []
    for line in _lines(files, "val/val_annotations.txt"):
        picture, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not _PICTURE.fullmatch(picture) or wnid not in order:
            raise InvalidInput(f"{files.path}/val/val_annotations.txt: cannot use the line {line[:60]!r}")
        names.append(f"val/images/{picture}")
        labels.append(order[wnid])
    missing = set(names).difference(files.names("val/images"))
    if missing:
        raise InvalidInput(f"{files.path}: {len(missing)} annotated images are missing, such as {min(missing)}")
    return names, labels


def _training(files: _Files, wnids: list[str]) -> tuple[list[str], list[int]]:
    """Names and labels, class by class, in the order of the pictures' numbers."""
    names, labels = [], []
    for label, wnid in enumerate(wnids):
        found = [name for name in files.names(f"train/{wnid}/images") if name.endswith(".JPEG")]
        if not found:
            raise InvalidInput(f"{files.path}: holds no pictures in train/{wnid}/images")
        names += sorted(found, key=lambda name: (len(name), name))
        labels += [label] * len(found)
    return names, labels
