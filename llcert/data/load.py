"""From a name or a path to a data set."""

from __future__ import annotations

from pathlib import Path

from llcert.data.dataset import Dataset
from llcert.data.digits import load_digits
from llcert.errors import InvalidInput


def load_dataset(name_or_path: str, *, split: str = "test", root: Path | None = None) -> Dataset:
    """The named data set; InvalidInput where there is none of that name or split."""
    if name_or_path != "digits" or split not in ("train", "test"):
        raise InvalidInput(f"no data set {name_or_path!r} with a split {split!r}")
    return load_digits(split)
