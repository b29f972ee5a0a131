"""Files that are written whole or not at all, and folders with one writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llcert.errors import InvalidInput
from llcert.machine.files import dump, first_difference, is_vacant, lock, part_of, write_atomically


def test_a_file_is_replaced_at_once_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, dump({"a": 1}))
    assert path.read_text() == '{"a": 1}\n'

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "another")
    assert path.read_text() == '{"a": 1}\n'
    assert not part_of(path).exists()


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "content")
    assert (tmp_path / "target").read_text() == "content"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_finite_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"a": value})


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w+b") as mine, (tmp_path / "lock").open("r+b") as other:
        lock(mine, tmp_path)
        with pytest.raises(InvalidInput, match="another llcert is at work in this folder"):
            lock(other, tmp_path)


def test_a_folder_is_vacant_that_holds_nothing_of_anybody(tmp_path: Path) -> None:
    out = tmp_path / "out"
    new = {"option": "--out", "marker": "run.json", "resume": False, "overwrite": False}
    assert is_vacant(out, **new)  # type: ignore[arg-type]
    out.mkdir()
    (out / ".lock").touch()
    assert is_vacant(out, **new, ignored=(".lock",))  # type: ignore[arg-type]
    for name, words in ((".lock", "is not empty"), ("run.json", "holds an earlier run")):
        (out / name).touch()
        with pytest.raises(InvalidInput, match=f"--out {out}: {words}; give --resume to continue it or --overwrite"):
            is_vacant(out, **new)  # type: ignore[arg-type]
        for given in ("resume", "overwrite"):
            assert not is_vacant(out, **{**new, given: True})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="exclude each other"):
        is_vacant(out, **{**new, "resume": True, "overwrite": True})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not a folder"):
        is_vacant(out / "run.json", **new)  # type: ignore[arg-type]


def test_values_are_compared_as_json_has_them() -> None:
    before = {"eps": 0.1, "stages": ["global"], "gone": 1}
    assert first_difference(before, {"stages": ("global",), "eps": 0.1}) is None
    assert first_difference(before, {"eps": 0.1, "stages": ("local",), "more": 1}) == "stages"
    assert first_difference(before, {"more": 1}) == "more"
