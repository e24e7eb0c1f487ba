"""Downloads appear complete and verified, or not at all."""

import hashlib
import socketserver
import sys
import threading

import pytest

from mamlpp_jax.data.readers.download import download
from mamlpp_jax.errors import DataError
from tests.helpers.http_server import serve

CONTENT = b"contents of the file " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADVICE = "Put it there yourself."


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.zip").write_bytes(CONTENT)
    with serve(tmp_path / "served") as (url, requested):
        yield url + "file.zip", requested


def refused(url, path, *parts):
    with pytest.raises(DataError) as caught:
        download(url, path, SHA256, ADVICE)
    for part in (f"Cannot download {url} to {path}: ", *parts):
        assert part in str(caught.value)
    assert str(caught.value).endswith(f". {ADVICE}")
    assert ".." not in str(caught.value)
    assert not path.parent.exists() or not list(path.parent.iterdir())


def test_a_file_is_downloaded_once(server, tmp_path):
    url, requested = server
    path = tmp_path / "new" / "folder" / "file.zip"
    for _ in range(2):
        download(url, path, SHA256, ADVICE)
        assert path.read_bytes() == CONTENT
    assert len(requested) == 1
    assert [p.name for p in path.parent.iterdir()] == ["file.zip"]


def test_a_damaged_file_is_downloaded_again(server, tmp_path):
    url, requested = server
    path = tmp_path / "file.zip"
    path.write_bytes(CONTENT[:-1])
    download(url, path, SHA256, ADVICE)
    assert path.read_bytes() == CONTENT
    assert len(requested) == 1


def test_other_contents_are_refused_and_not_kept(server, tmp_path):
    (tmp_path / "served" / "file.zip").write_bytes(CONTENT + b"x")
    refused(server[0], tmp_path / "new" / "file.zip", SHA256, "does not match")


def test_a_missing_file_is_reported(server, tmp_path):
    (tmp_path / "served" / "file.zip").unlink()
    refused(server[0], tmp_path / "new" / "file.zip", "404")


def test_an_unreachable_server_is_reported(tmp_path):
    refused("http://127.0.0.1:9/file.zip", tmp_path / "new" / "file.zip", "refused")


def test_a_connection_that_breaks_is_reported(tmp_path):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()
            self.wfile.write(head + CONTENT[:5000])

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/file.zip"
        refused(url, tmp_path / "new" / "file.zip")
        server.shutdown()
        thread.join()


def test_without_pooch_the_advice_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    refused("http://127.0.0.1:9/file.zip", tmp_path / "new" / "file.zip", "pooch")
