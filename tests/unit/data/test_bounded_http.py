"""A real server that misbehaves in every way, on loopback; nothing of it may take more bytes or time than allowed."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline_steps.data.bounded_http import Limits, bounded_opener
from tests.unit.data.made_data import many_scans, picture_bytes

LIMITS = Limits(most_bytes=100_000, seconds=1.0, private=True)
BODY = b"x" * 50_000


class Stranger(BaseHTTPRequestHandler):
    """Each path is a way to answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        with suppress(OSError):  # who asked has gone
            name = self.path.strip("/").partition("?")[0].replace("%C3%A9", "accent")
            getattr(self, name, self.unknown)()

    def _head(self, *headers: tuple[str, object], code: int = 200) -> None:
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, str(value))
        self.end_headers()

    def unknown(self) -> None:
        self._head(("Content-Length", 0), code=404)

    def good(self) -> None:
        self._head(("Content-Length", len(BODY)))
        self.wfile.write(BODY)

    def picture(self) -> None:
        self._sent(picture_bytes(1, form="PNG"))

    accent = picture

    def scans(self) -> None:
        self._sent(many_scans(101))

    def robots(self) -> None:
        self._sent(picture_bytes(2, form="PNG"), ("X-Robots-Tag", "noai"))

    def _sent(self, body: bytes, *headers: tuple[str, object]) -> None:
        self._head(("Content-Length", len(body)), *headers)
        self.wfile.write(body)

    def chunked(self) -> None:
        self._head(("Transfer-Encoding", "chunked"))
        for start in range(0, len(BODY), 7000):
            part = BODY[start : start + 7000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def endless(self) -> None:
        self._head(("Connection", "close"))
        while True:
            self.wfile.write(BODY)

    def large(self) -> None:
        self._head(("Content-Length", 10**12))
        while True:
            self.wfile.write(BODY)

    def cut(self) -> None:
        self._head(("Content-Length", 2 * len(BODY)), ("Connection", "close"))
        self.wfile.write(BODY)
        self.close_connection = True

    def drip(self) -> None:
        self._head(("Content-Length", 1000))
        for _ in range(200):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def drip_headers(self) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
            self.wfile.write(bytes([letter]))
            time.sleep(0.05)

    def silent(self) -> None:
        time.sleep(5)

    def to_ftp(self) -> None:
        self._head(("Location", "ftp://127.0.0.1/x"), ("Content-Length", 0), code=302)

    def to_file(self) -> None:
        self._head(("Location", "file:///etc/passwd"), ("Content-Length", 0), code=302)

    def to_good(self) -> None:
        self._head(("Location", "/good"), ("Content-Length", 0), code=302)

    def around(self) -> None:
        self._head(("Location", "/around"), ("Content-Length", 0), code=302)


@contextmanager
def strangers() -> Iterator[str]:
    """The address of the server, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with strangers() as address:
        yield address


def test_letters_beyond_ascii_are_spelled_for_the_server(base: str) -> None:
    assert _fetched(f"{base}/é") == picture_bytes(1, form="PNG")


def _fetched(url: str, limits: Limits = LIMITS) -> bytes:
    with bounded_opener(limits).open(url, timeout=0.6) as answer:
        found: bytes = answer.read()
    return found


@pytest.mark.parametrize("name", ["good", "chunked", "to_good", "good?q=ü a"])
def test_what_is_within_the_limits_comes_whole(base: str, name: str) -> None:
    patient = LIMITS._replace(seconds=60)
    assert _fetched(f"{base}/{name}", patient) == BODY
    deadline = time.monotonic() + 10
    while _deadlines() and time.monotonic() < deadline:  # one that was called off still has to wake up
        time.sleep(0.01)
    assert not _deadlines(), "a deadline waits on, a thread for every answer"


def _deadlines() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if isinstance(one, threading.Timer) and one.interval == 60]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("endless", "too large: the answer has more than 100000 bytes"),
        ("large", "too large: the answer has more than 100000 bytes"),
        ("cut", "IncompleteRead"),
        ("drip", "timed out: the answer was not there after 1 s"),
        ("drip_headers", "timed out: the answer was not there after 1 s"),
        ("silent", "timed out"),
        ("to_ftp", "not allowed: a redirect to no http"),
        ("to_file", "Redirection to url .* is not allowed"),
        ("around", "infinite loop"),
    ],
)
def test_what_is_beyond_the_limits_ends_in_time_with_the_cause(base: str, name: str, words: str) -> None:
    started = time.monotonic()
    with pytest.raises(Exception, match=words):  # noqa: B017, PT011 - each kind that urllib has
        _fetched(f"{base}/{name}")
    assert time.monotonic() - started < 3


def test_addresses_that_are_not_public_are_asked_for_where_that_is_allowed(base: str) -> None:
    with pytest.raises(urllib.error.URLError, match="not allowed: 127.0.0.1 is 127.0.0.1, which is no public address"):
        _fetched(f"{base}/good", LIMITS._replace(private=False))
    with pytest.raises(urllib.error.URLError, match="not allowed: localhost is"):
        _fetched(f"{base}/good".replace("127.0.0.1", "localhost"), LIMITS._replace(private=False))


def test_a_proxy_judges_for_itself(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", base)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(urllib.error.HTTPError, match="404"):  # the server is asked, and knows no such path
        _fetched("http://example.invalid/good", LIMITS._replace(private=False))
