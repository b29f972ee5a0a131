import io
import tarfile

import pytest

from llcert.data.archive import read_tar, read_zip
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


def read(path):
    reader = read_zip if path.suffix == ".zip" else read_tar
    return reader(path, lambda name: name.endswith("wanted"), member_limit=1000, total_limit=1 << 20)


def test_only_wanted_files_are_kept(tmp_path):
    path = tar(tmp_path / "a.tar.gz", ("./d/wanted", tarfile.REGTYPE, b"12"), ("other", tarfile.REGTYPE, b"3"))
    assert read(path) == {"d/wanted": b"12"}


@pytest.mark.parametrize("name", ["../wanted", "d/../../wanted", "/etc/wanted", "C:/wanted", "..\\wanted"])
def test_names_that_point_outside(tmp_path, write, name):
    with pytest.raises(InvalidInput, match="points outside"):
        read(tar(tmp_path / "a.tar.gz", (name, tarfile.REGTYPE, b"12")))
    with pytest.raises(InvalidInput, match="points outside"):
        read(write.put("a.zip", write.zip({name: b"12"})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    with pytest.raises(InvalidInput, match="not a plain file"):
        read(tar(tmp_path / "a.tar.gz", ("wanted", kind, "/etc/passwd")))


def test_bombs(tmp_path):
    with pytest.raises(InvalidInput, match="more than 1,000 bytes"):
        read(tar(tmp_path / "a.tar.gz", ("wanted", tarfile.REGTYPE, bytes(1001))))
    with pytest.raises(InvalidInput, match="decompresses to more"):
        read(tar(tmp_path / "b.tar.gz", ("other", tarfile.REGTYPE, bytes(2 << 20))))


def test_bombs_in_a_zip(write):
    with pytest.raises(InvalidInput, match="more than 1,000 bytes"):
        read(write.put("a.zip", write.zip({"wanted": bytes(1001)})))
    with pytest.raises(InvalidInput, match="more than 576 bytes"):
        read(write.put("a.zip", write.zip({f"{index}/wanted": bytes(1000) for index in range(1049)})))


def test_only_wanted_files_of_a_zip_are_kept(write):
    path = write.put("a.zip", write.zip({"d/wanted": b"12", "other": bytes(5000), "e/": b""}))
    assert read(path) == {"d/wanted": b"12"}


@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive at all", bytes(2000)])
def test_no_archive(write, content, ending):
    with pytest.raises(InvalidInput, match="not a readable"):
        read(write.put(f"a.{ending}", content))


def test_a_truncated_archive(write):
    whole = write.tar({"wanted": b"1" * 900, "other/wanted": b"2" * 900})
    for size in range(len(whole) - 1, 0, -7):
        with pytest.raises(InvalidInput, match="not a readable"):
            read(write.put("a.tar.gz", whole[:size]))
