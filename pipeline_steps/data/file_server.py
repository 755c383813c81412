"""A file server on loopback that serves pictures from memory, and the faults that downloads meet, on purpose."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, get_args

from PIL import Image

Fault = Literal["not_found", "server_error", "slow", "truncated", "html", "one_pixel", "absurd_size"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_HTML = b"<!DOCTYPE html><html><body><h1>This picture has moved</h1></body></html>"


@dataclass(frozen=True)
class ServedFile:
    """The bytes of a WebP picture, and what goes wrong when it is asked for; None: nothing."""

    body: bytes
    fault: Fault | None = None


@contextmanager
def serving(files: Sequence[ServedFile], *, slow_seconds: float, max_image_pixels: int) -> Iterator[str]:
    """Serve `files[i]` at `<base>/<i>` on a free loopback port; gives the base URL, without a final slash.

    The server ends with the block, also after an exception; answers that are still being held back end with it.
    `slow` waits `slow_seconds` before it answers; `truncated` promises the whole body and sends half; `absurd_size`
    is a sound PNG of a few kilobytes with twice `max_image_pixels` pixels (making it takes one byte of memory each).
    """
    made = _made_pictures(files, max_image_pixels)
    server = _Server(("127.0.0.1", 0), _Handler, files=files, made=made, slow_seconds=slow_seconds)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="file-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        *,
        files: Sequence[ServedFile],
        made: dict[Fault, bytes],
        slow_seconds: float,
    ) -> None:
        super().__init__(address, handler)
        self.files, self.made, self.slow_seconds = files, made, slow_seconds
        self.stopping = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up while it was answered is expected here; there is nobody left to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        number = self.path.removeprefix("/")
        if not number.isdecimal() or int(number) >= len(self.server.files):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        file = self.server.files[int(number)]
        match file.fault:
            case "not_found":
                self.send_error(HTTPStatus.NOT_FOUND)
            case "server_error":
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            case "html":
                self._answer(_HTML, "text/html")
            case "one_pixel" | "absurd_size":
                self._answer(self.server.made[file.fault], "image/png")
            case "truncated":
                self._answer(file.body[: len(file.body) // 2], "image/webp", promised=len(file.body))
            case "slow":
                if not self.server.stopping.wait(self.server.slow_seconds):
                    self._answer(file.body, "image/webp")
            case None:
                self._answer(file.body, "image/webp")

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are counted by the client; a line for each would bury the step's log."""

    def _answer(self, body: bytes, content_type: str, promised: int | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)


def _made_pictures(files: Sequence[ServedFile], max_image_pixels: int) -> dict[Fault, bytes]:
    made: dict[Fault, bytes] = {"one_pixel": _png(1)}
    if any(file.fault == "absurd_size" for file in files):
        made["absurd_size"] = _png(math.isqrt(2 * max_image_pixels) + 1)
    return made


def _png(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (side, side), 1).save(stream, "PNG")
    return stream.getvalue()
