import io
import tarfile

import pytest

from llcert.data.archive import read_tar, read_zip, zip_names
from llcert.errors import InvalidInput


def tar(path, *members):
    """Members are (name, type, content or link target)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return path


def read(path, limit=1000):
    return read_tar(path, lambda name: name.endswith("wanted"), member_limit=limit, total_limit=1 << 20)


def test_only_wanted_files_are_kept(tmp_path):
    path = tar(tmp_path / "a.tar.gz", ("./d/wanted", tarfile.REGTYPE, b"12"), ("other", tarfile.REGTYPE, b"3"))
    assert read(path) == {"d/wanted": b"12"}


@pytest.mark.parametrize("name", ["../wanted", "d/../../wanted", "/etc/wanted", "C:/wanted", "..\\wanted"])
def test_names_that_point_outside(tmp_path, write, name):
    with pytest.raises(InvalidInput, match="points outside"):
        read(tar(tmp_path / "a.tar.gz", (name, tarfile.REGTYPE, b"12")))
    with pytest.raises(InvalidInput, match="points outside"):
        zip_names(write.put("a.zip", write.zip({name: b"12"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    with pytest.raises(InvalidInput, match="not a plain file"):
        read(tar(tmp_path / "a.tar.gz", ("wanted", kind, "/etc/passwd")))


def test_bombs(tmp_path):
    with pytest.raises(InvalidInput, match="more than 1,000 bytes"):
        read(tar(tmp_path / "a.tar.gz", ("wanted", tarfile.REGTYPE, bytes(1001))))
    with pytest.raises(InvalidInput, match="decompresses to more"):
        read(tar(tmp_path / "b.tar.gz", ("other", tarfile.REGTYPE, bytes(2 << 20))))


def test_a_bomb_in_a_zip(write):
    path = write.put("a.zip", write.zip({"wanted": bytes(1001)}))
    with pytest.raises(InvalidInput, match="more than 1,000 bytes"):
        read_zip(path, ["wanted"], 1000)


def test_a_missing_member_of_a_zip(write):
    path = write.put("a.zip", write.zip({"wanted": b"12"}))
    assert read_zip(path, ["wanted"], 1000) == [b"12"]
    with pytest.raises(InvalidInput, match="not a readable zip"):
        read_zip(path, ["absent"], 1000)


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive at all", bytes(2000)])
def test_no_archive(write, content):
    path = write.put("a.tar", content)
    if content != bytes(2000):  # which is a valid empty tar archive
        with pytest.raises(InvalidInput, match="not a readable tar"):
            read(path)
    with pytest.raises(InvalidInput, match="not a readable zip"):
        zip_names(path)
