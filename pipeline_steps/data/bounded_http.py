"""HTTP from strangers, for urllib: no more bytes, no longer and to no other places than a list of URLs may ask for."""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

_PART = 2**16
_SAFE = "%/:=&?~#+!$,;'@()*[]|"  # what a URL may hold as it stands


class Limits(NamedTuple):
    """Of one answer: the most bytes of its body when it is read at once, its seconds from connecting to its end, and
    whether it may come from an address that is not public. `judge` says what is wrong with a body, or None.
    """

    most_bytes: int
    seconds: float
    private: bool
    judge: Callable[[bytes], str | None] | None = None


def bounded_opener(limits: Limits) -> urllib.request.OpenerDirector:
    """An opener that raises TimeoutError ("timed out"), or OSError ("too large", "not allowed"), beyond the limits.

    Of redirects it follows those to http and https; letters beyond ASCII are spelled as servers read them. What a proxy
    of the environment reaches is for the proxy to judge.
    """
    return urllib.request.build_opener(_Redirects(), _Spelling(), _Http(limits), _Https(limits))


class _Spelling(urllib.request.BaseHandler):
    """Spells a URL in ASCII: its host by IDNA, the rest in percent signs."""

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        if not request.full_url.isascii() or " " in request.full_url:
            parts = urllib.parse.urlsplit(request.full_url)
            place = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
            rest = (urllib.parse.quote(part, safe=_SAFE) for part in (parts.path, parts.query, parts.fragment))
            request.full_url = urllib.parse.urlunsplit((parts.scheme, place, *rest))
        return request

    https_request = http_request


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme.lower() not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, "not allowed: a redirect to no http(s) address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_Connection, self._limits), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_SecureConnection, self._limits), req)


class _Deadline:
    """Shuts a connection down after so many seconds, whatever it waits for, so that every read of it ends."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.came = seconds, False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, connected: socket.socket) -> None:
        """Take a socket, whatever wraps it later: its double reaches the same connection."""
        self._sockets.append(socket.socket(fileno=os.dup(connected.fileno())))

    def over(self) -> None:
        """Forget it: the answer has come."""
        self._timer.cancel()
        for watched in self._sockets:
            watched.close()
        self._sockets = []

    def error(self) -> TimeoutError:
        """What to raise once it came."""
        return TimeoutError(f"timed out: the answer was not there after {self._seconds:g} s")

    def _end(self) -> None:
        self.came = True
        for watched in list(self._sockets):
            with suppress(OSError):
                watched.shutdown(socket.SHUT_RDWR)


class _Bounded:
    """What connections of both kinds have."""

    def __init__(self, limits: Limits, host: str, **options: Any) -> None:
        super().__init__(host, **options)  # type: ignore[call-arg]
        self.limits, self.deadline = limits, _Deadline(limits.seconds)
        self._create_connection = self._connected
        self.response_class: Any = partial(_Answer, self)

    def _connected(self, address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        found = socket.create_connection(address, *arguments, **options)
        reached = ipaddress.ip_address(found.getpeername()[0].partition("%")[0])
        if not self.limits.private and not reached.is_global and address[0] not in _proxies():
            found.close()
            raise OSError(f"not allowed: {address[0]} is {reached}, which is no public address")
        self.deadline.watch(found)
        return found

    def getresponse(self) -> Any:
        try:
            return super().getresponse()  # type: ignore[misc]
        except (OSError, http.client.HTTPException) as error:
            if self.deadline.came:
                raise self.deadline.error() from error
            raise

    def close(self) -> None:
        self.deadline.over()
        super().close()  # type: ignore[misc]


class _Connection(_Bounded, http.client.HTTPConnection):
    pass


class _SecureConnection(_Bounded, http.client.HTTPSConnection):
    pass


class _Answer(http.client.HTTPResponse):
    def __init__(self, connection: _Bounded, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits, self._deadline = connection.limits, connection.deadline

    def read(self, amt: int | None = None) -> bytes:
        """All of the body within the limits, or the next `amt` bytes of it within the deadline."""
        try:
            found = self._all() if amt is None or amt < 0 else super().read(amt)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if self._deadline.came:
                raise self._deadline.error() from error
            raise
        if self._deadline.came:
            raise self._deadline.error()
        return found

    def _all(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := self.read1(_PART):
            parts.append(part)
            size += len(part)
            if size > self._limits.most_bytes:
                raise OSError(f"too large: the answer has more than {self._limits.most_bytes} bytes")
        if self.length:  # read1, unlike read, takes an early end for the end
            raise http.client.IncompleteRead(b"", self.length)
        body = b"".join(parts)
        told = self._limits.judge(body) if self._limits.judge else None
        if told:
            raise OSError(told)
        return body

    def close(self) -> None:
        self._deadline.over()
        super().close()


def _proxies() -> set[str | None]:
    return {urllib.parse.urlsplit(proxy).hostname for proxy in urllib.request.getproxies().values()}
