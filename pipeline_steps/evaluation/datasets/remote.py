"""A folder behind http(s), kept on this machine file by file: each is fetched once and appears whole."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from pipeline_steps.core.files import require_free_disk, whole_file
from pipeline_steps.data.bounded_http import Limits, bounded_opener
from pipeline_steps.evaluation.datasets.source import AbsentError, whole_number

_HUB = re.compile(r"(https://huggingface\.co/datasets/[^/]+/[^/]+)/tree/(.+)")
_TRIES = 3
_TIMEOUT_SECONDS = 30
_PAUSE_SECONDS = 1.0
_BLOCK = 2**20
_LEAST_RATE = 10_000  # bytes a second
_MOST_BYTES = 2**40
_MOST_DIGITS = 13
_OPENER = bounded_opener(Limits(_BLOCK, 24 * 3600, private=True))


class RemoteFolder:
    """Files below `address`, kept below `cache` in the folder `kept_in`. A file that is there is not asked for again.

    Of the Hugging Face hub it takes the address of a page, https://huggingface.co/datasets/<owner>/<name>/tree/<branch>.
    """

    def __init__(self, address: str, cache: Path) -> None:
        address = address.rstrip("/")
        self.address = f"{found[1]}/resolve/{found[2]}" if (found := _HUB.fullmatch(address)) else address
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", address.split("://", 1)[1])
        self.kept_in = cache / f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"

    def fetch(self, name: str) -> Path | None:
        """The file on this machine; None when the server says that there is none.

        Raises AbsentError when the server cannot be reached or fails, after three tries, and PipelineError when the
        disk is full.
        """
        path = self.kept_in / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # rows may share a place, and their jobs run at once
            return path if path.is_file() else self._fetched(f"{self.address}/{name}", path)

    @staticmethod
    def _fetched(address: str, path: Path) -> Path | None:
        for number in range(_TRIES):
            try:
                return _download(address, path)
            except urllib.error.HTTPError as error:
                if error.code in (404, 410):
                    return None
                reason = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code != 429:
                    break
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if number + 1 < _TRIES:
                time.sleep(_PAUSE_SECONDS * 2**number)
        raise AbsentError(f"{address} cannot be had ({reason})")


def _download(address: str, path: Path) -> Path:
    request = urllib.request.Request(address, headers={"User-Agent": "pipeline_steps"})  # noqa: S310 - http(s)
    with _OPENER.open(request, timeout=_TIMEOUT_SECONDS) as answer:
        length = whole_number(answer.headers.get("Content-Length", ""), most_digits=_MOST_DIGITS)
        require_free_disk(path.parent, length or 0)
        with whole_file(path) as partial:
            size = _written(answer, partial)
            if length is not None and size != length:
                raise ConnectionError(f"{size} of {length} bytes came")
    return path


def _written(answer: http.client.HTTPResponse, path: Path) -> int:
    """The bytes of an answer that has neither more than _MOST_BYTES nor comes slower than _LEAST_RATE."""
    size, started = 0, time.monotonic()
    with path.open("wb") as stream:
        while part := answer.read1(_BLOCK):
            size += stream.write(part)
            seconds = time.monotonic() - started
            if seconds > _TIMEOUT_SECONDS and size < _LEAST_RATE * (seconds - _TIMEOUT_SECONDS):
                raise TimeoutError(f"timed out: only {size:,} bytes came in {seconds:.0f} s")
            if size > _MOST_BYTES:
                raise ConnectionError(f"too large: more than {_MOST_BYTES:,} bytes came")
    return size
