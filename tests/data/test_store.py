"""Downloads, from files and servers on this machine."""

import hashlib
import http.server
import threading

import pytest

from llcert.data.store import Remote, Store, default_root
from llcert.errors import InvalidInput

CONTENT = bytes(range(256)) * 4096
SIZE = len(CONTENT)


def remote(*urls, content=CONTENT, size=SIZE):
    return Remote("file.bin", urls, f"sha256:{hashlib.sha256(content).hexdigest()}", size)


@pytest.fixture
def source(write):
    return write.put("server/file.bin", CONTENT).as_uri()


def left_over(root):
    return [path for path in root.rglob("*") if path.is_file()]


def test_fetched_verified_and_shown(tmp_path, source):
    seen = []

    def progress(chunks, *, total, label):
        for chunk in chunks:
            seen.append((len(chunk), total, label))
            yield chunk

    root = tmp_path / "root"
    path = Store(root, progress=progress).fetch(remote(source), "folder")
    assert path == root / "folder" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert sum(size for size, _, _ in seen) == len(CONTENT)
    assert {rest for _, *rest in map(tuple, seen) for rest in [tuple(rest)]} == {(len(CONTENT), "file.bin")}
    assert left_over(root) == [path]


def test_the_next_address_is_tried(tmp_path, source, write):
    wrong = write.put("mirror/file.bin", b"<html>please log in</html>").as_uri()
    absent = (tmp_path / "absent").as_uri()
    path = Store(tmp_path / "root").fetch(remote(wrong, absent, source), "folder")
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [(CONTENT[:-1], len(CONTENT), "sha256 differs"), (CONTENT * 3, 1000, "sends more than")],
)
def test_what_is_not_the_file_is_not_kept(tmp_path, write, content, size, message):
    url = write.put("server/file.bin", content).as_uri()
    with pytest.raises(InvalidInput, match=message):
        Store(tmp_path / "root").fetch(remote(url, size=size), "folder")
    assert left_over(tmp_path / "root") == []


def test_an_interrupt_leaves_nothing_behind(tmp_path, source):
    def progress(chunks, *, total, label):
        yield next(iter(chunks))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path / "root", progress=progress).fetch(remote(source), "folder")
    assert left_over(tmp_path / "root") == []


def test_a_closed_network_names_address_and_folder(tmp_path):
    url = "http://127.0.0.1:9/file.bin"
    with pytest.raises(InvalidInput) as caught:
        Store(tmp_path).fetch(remote(url), "folder")
    assert url in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_downloads_can_be_forbidden(tmp_path, source):
    with pytest.raises(InvalidInput, match=r"file\.bin is not in"):
        Store(tmp_path / "root", download=False).fetch(remote(source), "folder")
    assert not (tmp_path / "root").exists()


def test_a_root_that_cannot_be_written(tmp_path, source):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(InvalidInput, match="cannot be created"):
        Store(tmp_path / "root").fetch(remote(source), "folder")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
        else:
            self.send_error(404)

    def log_message(self, format, *args):
        pass


def test_servers_that_fail(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            with pytest.raises(InvalidInput, match=r"404.*sha256 differs"):
                Store(tmp_path / "root").fetch(remote(f"{address}/absent", f"{address}/cut"), "folder")
        finally:
            server.shutdown()
            thread.join()
    assert left_over(tmp_path / "root") == []


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("LLCERT_DATA", str(tmp_path / "named"))
    assert default_root() == tmp_path / "named"
    monkeypatch.delenv("LLCERT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_root() == tmp_path / "cache" / "llcert"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "llcert"
