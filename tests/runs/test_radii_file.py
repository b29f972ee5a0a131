"""Files of radii: what stands in a file is kept to the last digit, and what is no radius is named by its place."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from llcert.errors import InvalidInput
from llcert.runs.radii_file import read_radii


def test_text_is_kept_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "radii.txt"
    path.write_text("# per image\n36/255\n\n  0.10  # the second\r\n1e-3\n0\n")
    assert read_radii(path) == ("36/255", "0.10", "1e-3", "0")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_numbers_of_an_array_have_texts_that_are_the_same_numbers(dtype: type, tmp_path: Path) -> None:
    values = np.array([0, 1, 0.1, 36 / 255], dtype) if dtype is not np.uint8 else np.array([0, 1, 255], dtype)
    np.save(tmp_path / "radii.npy", values)
    texts = read_radii(tmp_path / "radii.npy")
    assert [float(Fraction(text)) for text in texts] == values.tolist()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("0.1\n\nx\n", "line 3: eps 'x'"),
        ("0.1\n-1\n", "line 2: eps '-1'"),
        ("nan", "line 1: eps 'nan'"),
        ("1/0", "line 1: eps '1/0'"),
        ("0.1 0.2", "line 1: eps '0.1 0.2'"),
        ("# nothing but words\n", "holds no radius"),
    ],
)
def test_a_line_that_is_no_radius_is_named(content: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "radii.txt"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=r"radii\.txt: ") as refused:
        read_radii(path)
    assert place in str(refused.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0.1, -0.5]), "entry 1: eps '-0.5'"),
        (np.array([np.inf]), "entry 0: eps 'inf'"),
        (np.ones((2, 1)), "expected a vector of numbers"),
        (np.array([True]), "expected a vector of numbers"),
        (np.array(["0.1"]), "expected a vector of numbers"),
        (np.ones(0), "holds no radius"),
    ],
)
def test_an_entry_that_is_no_radius_is_named(values: np.ndarray, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "radii.npy", values)
    with pytest.raises(InvalidInput) as refused:
        read_radii(tmp_path / "radii.npy")
    assert words in str(refused.value)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "radii.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match=r"radii\.npy"):
        read_radii(tmp_path / "radii.npy")
