"""A server that is slow, endless, short or no HTTP server at all: a sentence, and nothing is left."""

from __future__ import annotations

import socket
import threading
import time

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
