"""A folder with one folder of pictures a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llcert.data.dataset import Dataset
from llcert.data.pictures import EncodedImages, common_shape, header
from llcert.data.reading import read_file, reading
from llcert.errors import InvalidInput

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
_LIMIT = 64 << 20


def load_folder(path: Path) -> Dataset:
    """Pictures of one size; classes are the folders and pictures the files, both in the order of their names.

    `[1, height, width]` where every picture is grey, else `[3, height, width]`. Hidden entries are passed over.
    """
    with reading(path, "folder"):
        classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        pictures = [sorted(str(entry) for entry in place.iterdir() if _is_picture(entry)) for place in classes]
    for place, found in zip(classes, pictures, strict=True):
        if not found:
            raise InvalidInput(f"{place}: a class without pictures ({', '.join(_ENDINGS)})")
    names = [name for found in pictures for name in found]
    if not names:
        raise InvalidInput(f"{path}: holds no class folders; expected {path}/CLASS/PICTURE.png")
    # every header now, so that a long run does not end at its last picture
    shape = common_shape((name, header(_read([name])[0], name)) for name in names)
    images = EncodedImages(tuple(names), _read, shape)
    class_names = tuple(place.name for place in classes)
    counted = np.repeat(np.arange(len(classes)), [len(found) for found in pictures])
    return Dataset(str(path), "all", images, counted, len(classes), shape, class_names, note=str(path))


def _is_picture(entry: Path) -> bool:
    return entry.suffix.lower() in _ENDINGS and not entry.name.startswith(".") and entry.is_file()


def _read(names: list[str]) -> list[bytes]:
    return [read_file(Path(name), _LIMIT, "picture") for name in names]
