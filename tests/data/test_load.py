import numpy as np
import pytest

from llcert.data import NAMED, load_dataset
from llcert.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet", "choose digits, mnist"),
        ("", "neither a known name"),
        ("Digits", "neither a known name"),
        ("absent.npz", "neither a known name"),
        ("a\0b", "neither a known name"),
        ("x" * 5000, "neither a known name"),
        ("~no_such_user_here/x.npz", "neither a known name"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InvalidInput, match=message):
        load_dataset(name)


def test_files_of_other_kinds(write):
    with pytest.raises(InvalidInput, match="not a data file that llcert reads"):
        load_dataset(str(write.put("data.csv", b"1,2")))
    (write.root / "folder.npz").mkdir()
    with pytest.raises(InvalidInput, match="holds no class folders"):
        load_dataset(str(write.root / "folder.npz"))


def test_splits(write):
    path = write.put("data.npz", write.npz(x=np.zeros((1, 2)), y=np.zeros(1, int)))
    with pytest.raises(InvalidInput, match="read whole"):
        load_dataset(str(path), split="train")
    with pytest.raises(InvalidInput, match="choose test or train"):
        load_dataset("digits", split="validation")


def test_a_name_wins_over_a_folder_of_that_name(write, monkeypatch):
    write.put("digits/a/1.png", write.picture(write.bytes_of(4, 4)))
    monkeypatch.chdir(write.root)
    assert len(load_dataset("digits")) == 360
    assert len(load_dataset("./digits")) == 1


def test_the_environment_names_the_root(write, monkeypatch):
    write.mnist(count=3)
    monkeypatch.setenv("LLCERT_DATA", str(write.root))
    assert len(load_dataset("mnist", download=False)) == 3


def test_every_name_is_documented():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for name in NAMED:
        assert f"`{name}`" in text
