"""A server that is slow, endless, short or no HTTP server at all: a sentence, and nothing is left."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time

import numpy as np
import pytest

from mec.data import fetching
from mec.data.fetching import fetch
from mec.errors import BadInput

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def served():
    """Starts a server on this machine that answers everything with these bytes; gives its URL."""
    open_sockets, stop = [], threading.Event()

    def start(*parts: bytes, pause: float = 0.0, endless: bytes = b"") -> str:
        server = socket.create_server(("127.0.0.1", 0))
        open_sockets.append(server)

        def answer() -> None:
            try:
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    for part in parts:
                        connection.sendall(part)
                        stop.wait(pause)
                    while endless and not stop.is_set():
                        connection.sendall(endless)
                        stop.wait(pause)
            except OSError:
                pass

        threading.Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/a.tar"

    yield start
    stop.set()
    for each in open_sockets:
        each.close()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 1)
    monkeypatch.setattr(fetching, "PAUSE", 0.01)


def refused(url: str, tmp_path, words: str, **options) -> None:
    with pytest.raises(BadInput, match=words):
        fetch(url, tmp_path / "a.tar", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "cannot be fetched"),
        (b"hello\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "cannot be fetched"),
        (OK + b"Content-Length: 9\r\n\r\nabc", "cannot be fetched"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", "cannot be fetched"),
        (OK + b"Content-Length: 99999999999999999\r\n\r\nabc", "are free in"),
        (OK + b"X: " + b"a" * 100_000 + b"\r\n\r\n", "cannot be fetched"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "cannot be fetched"),
    ],
)
def test_an_answer_that_is_none_is_a_sentence(served, tmp_path, answer, words):
    refused(served(answer), tmp_path, words)


def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(served, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PATIENCE", 0.3)
    began = time.monotonic()
    refused(served(OK + b"Content-Length: 1000\r\n\r\n", endless=b"x", pause=0.02), tmp_path, "too slow to wait for")
    refused(served(OK, pause=10), tmp_path, "timed out")
    assert time.monotonic() - began < 60


def test_a_server_without_end_is_left_when_what_is_free_has_come(served, tmp_path, monkeypatch):
    free = fetching.shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(fetching, "SPARE", free - 1_000_000)
    refused(served(OK + b"\r\n", endless=b"x" * 100_000), tmp_path, "bytes came, which is all")


def test_a_size_that_is_not_the_index_s_is_refused_before_it_comes(served, tmp_path):
    refused(served(OK + b"Content-Length: 3\r\n\r\nabc"), tmp_path, "has 3 bytes, the index says 4", size=4)


@pytest.mark.parametrize("url", ["ftp:/x", "http://[::1", "http://127.0.0.1:1/a", "nothing://x", "http://a b/c"])
def test_a_url_that_is_none_is_a_sentence(tmp_path, url):
    refused(url, tmp_path, "cannot be fetched")


class Broken(http.server.BaseHTTPRequestHandler):
    """Gives parts of its file, at most so many bytes a connection; every `each`-th request fails."""

    content, most, each, asked, parts = b"", 1 << 20, 10**9, [], True

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if len(self.asked) % self.each == 0:
            self.send_error(503)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.parts else 0
        self.send_response(206 if wanted and self.parts else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.most])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def broken(monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 3)
    settings = {"content": np.random.default_rng(0).bytes(100_000), "asked": []}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Broken,), settings)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/a.tar", running.RequestHandlerClass
        running.shutdown()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_transfer_that_breaks_off_goes_on_where_it_was(broken, tmp_path):
    url, server = broken
    server.most = 17_000
    fetch(url, tmp_path / "a.tar", sha(server.content), size=len(server.content))
    assert (tmp_path / "a.tar").read_bytes() == server.content
    assert server.asked == [None, *(f"bytes={17_000 * i}-" for i in range(1, 6))]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_server_without_parts_gives_all_again(broken, tmp_path):
    url, server = broken
    server.parts = False
    (tmp_path / "a.tar.part").write_bytes(b"x" * 5_000)
    fetch(url, tmp_path / "a.tar", sha(server.content), size=len(server.content))
    assert (tmp_path / "a.tar").read_bytes() == server.content


@pytest.mark.parametrize("came", [0, 1, 60_000, 100_000, 100_001])
def test_after_a_kill_it_goes_on_with_what_came(broken, tmp_path, came):
    url, server = broken
    (tmp_path / "a.tar.part").write_bytes((server.content + b"x")[:came])
    fetch(url, tmp_path / "a.tar", sha(server.content), size=len(server.content))
    assert (tmp_path / "a.tar").read_bytes() == server.content
    assert not (tmp_path / "a.tar.part").exists()


def test_a_beginning_of_another_file_is_found_by_its_checksum_and_let_go(broken, tmp_path):
    url, server = broken
    (tmp_path / "a.tar.part").write_bytes(b"another")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        fetch(url, tmp_path / "a.tar", sha(server.content), size=len(server.content))
    fetch(url, tmp_path / "a.tar", sha(server.content), size=len(server.content))
    assert (tmp_path / "a.tar").read_bytes() == server.content


def test_a_busy_server_is_asked_again_and_one_that_stays_so_is_told(broken, tmp_path):
    url, server = broken
    server.each = 2
    for name in "abc":
        fetch(url, tmp_path / name)
        assert (tmp_path / name).read_bytes() == server.content
    server.asked.clear()
    server.each = 1
    with pytest.raises(BadInput, match="503"):
        fetch(url, tmp_path / "d")
    assert len(server.asked) == 3


def test_what_is_not_there_is_not_asked_for_again(served, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 1_000)
    refused(served(b"HTTP/1.1 404 Not Found\r\n\r\n"), tmp_path, "404")


def test_of_several_that_want_a_file_one_fetches_it(broken, tmp_path):
    url, server = broken
    checksum = sha(server.content)
    threads = [threading.Thread(target=fetch, args=(url, tmp_path / "a.tar", checksum)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert (tmp_path / "a.tar").read_bytes() == server.content
    assert len(server.asked) == 1
