"""`digits`: UCI optical digits, 1,797 images of 8x8, inside the package."""

from __future__ import annotations

from importlib import resources

import numpy as np

from llcert.data.dataset import ArrayImages, Dataset
from llcert.data.store import Store

_GREY_LEVELS = 16.0
_NOTE = "UCI Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), CC BY 4.0; part of llcert"


def load_digits(split: str, store: Store) -> Dataset:
    """The digits: `[1, 8, 8]`, 17 grey levels; 1,437 for training and 360 for testing, both stratified by class.

    store: not needed, they are part of the package.
    `digits.npz` holds scikit-learn's copy: `x` uint8 0..16, `y` uint8, and the fixed split as the boolean `test`.
    """
    with (
        resources.files("llcert.data").joinpath("digits.npz").open("rb") as stream,
        np.load(stream, allow_pickle=False) as stored,
    ):
        chosen = stored["test"] == (split == "test")
        images = stored["x"][chosen][:, None]
        labels = stored["y"][chosen].astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", split, ArrayImages(images, _GREY_LEVELS), labels, 10, (1, 8, 8), names, _NOTE)
