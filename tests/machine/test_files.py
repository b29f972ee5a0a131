"""Files that are written whole or not at all, and folders with one writer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llcert.errors import InvalidInput
from llcert.machine.files import dump, lock, part_of, write_atomically


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
