"""Loads a data set by its name, or from a file or folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from llcert.data.cifar import CIFAR10, CIFAR100
from llcert.data.dataset import Dataset
from llcert.data.digits import load_digits
from llcert.data.folder import load_folder
from llcert.data.mnist import FASHION_MNIST, MNIST
from llcert.data.npz import load_npz
from llcert.data.parquet import load_parquet
from llcert.data.store import Progress, Store, default_root, silent
from llcert.data.tiny_imagenet import load_tiny_imagenet
from llcert.data.vnnlib import load_vnnlib
from llcert.errors import InvalidInput

SPLITS = ("test", "train")

NAMED: Mapping[str, Callable[[str, Store], Dataset]] = MappingProxyType(
    {
        "digits": load_digits,
        "mnist": MNIST.load,
        "fashion-mnist": FASHION_MNIST.load,
        "cifar10": CIFAR10.load,
        "cifar100": CIFAR100.load,
        "tiny-imagenet": load_tiny_imagenet,
    }
)

FILES: Mapping[str, Callable[[Path], Dataset]] = MappingProxyType(
    {".npz": load_npz, ".vnnlib": load_vnnlib, ".vnnlib.gz": load_vnnlib, ".parquet": load_parquet}
)


def load_dataset(
    name_or_path: str,
    *,
    split: str = "test",
    root: Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> Dataset:
    """The data set of this name, or the one that the file or folder holds; names win, `./name` is a path.

    split: `test` or `train` of a named set; a path has no splits and is read whole.
    root: where official files lie and are downloaded to; None is `LLCERT_DATA` or the user's cache.
    progress: wraps the chunks of a download, to show how it goes.
    image_shape: reads each image in this shape, for instance the flat ones of `.vnnlib`.
    Raises InvalidInput, in one line, for whatever cannot be found or read.
    """
    if split not in SPLITS:
        raise InvalidInput(f"split {split!r}: choose {' or '.join(SPLITS)}")
    if name_or_path in NAMED:
        store = Store((root or default_root()).expanduser(), download, progress or silent)
        found = NAMED[name_or_path](split, store)
    else:
        found = _from_path(name_or_path, split)
    return found if image_shape is None else found.reshape(image_shape)


def _from_path(text: str, split: str) -> Dataset:
    choices = f"choose {', '.join(NAMED)}, or a path: {', '.join(FILES)}, a folder of class folders"
    try:
        path = Path(text).expanduser()
        exists, is_folder, is_file = path.exists(), path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError):  # names too long, with NUL, of no user
        exists = is_folder = is_file = False
    if not exists or not text:
        raise InvalidInput(f"data {text[:200]!r}: neither a known name nor an existing path; {choices}")
    if split != "test":
        raise InvalidInput(f"{path}: a path is read whole and has no split {split!r}; leave the split out")
    if is_folder:
        return load_folder(path)
    reader = next((read for ending, read in FILES.items() if path.name.lower().endswith(ending)), None)
    if reader is None or not is_file:
        raise InvalidInput(f"{path}: not a data file that llcert reads; {choices}")
    return reader(path)
