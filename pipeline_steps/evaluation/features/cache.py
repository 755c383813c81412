"""The cache of embeddings: a safetensors file per matrix, named by a hash of what it was made from.

A file holds one tensor, `rows`, and the sha256 of its bytes. It grows under a name of its own and gets its right name
whole, so that any number of jobs may share a folder and be killed at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from pipeline_steps.core.files import explain_full_disk
from pipeline_steps.core.schema.values import Section, Sha256

TENSOR = "rows"
_SHA256 = "sha256"
_DTYPES = {"float32": "F32", "int64": "I64"}


class Entry(Section, frozen=True):
    """A file of the cache: its name there and the sha256 of its tensor's bytes."""

    key: Sha256
    sha256: Sha256


def key_of(**parts: str) -> str:
    """The name of what is made from these parts: a hex sha256 over their names and values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class GrowingFile:
    """A matrix of `rows` rows that is written from the first row to the last, in parts; then `entry` names it."""

    def __init__(self, stream: BinaryIO, rows: int) -> None:
        self._stream, self._rows, self._digest = stream, rows, hashlib.sha256()
        self._written = 0
        self.entry: Entry | None = None
        self._header_of: tuple[tuple[int, ...], str] | None = None

    def append(self, part: npt.NDArray[Any]) -> None:
        """Write the next rows: (n, d) or (n,), float32 or int64, of one width and type in all parts."""
        form = (part.shape[1:], str(part.dtype))
        if self._header_of is None:
            self._header_of = form
            self._stream.write(self._header("0" * 64))
        if form != self._header_of or self._written + len(part) > self._rows:
            raise ValueError(f"{part.shape} {part.dtype} does not go into {self._rows} rows of {self._header_of}")
        content = np.ascontiguousarray(part).tobytes()
        self._digest.update(content)
        self._stream.write(content)
        self._written += len(part)

    def finish(self) -> str:
        """Write the checksum into the header, send all to the disk, and return the checksum."""
        if self._written != self._rows:
            raise ValueError(f"{self._written} of {self._rows} rows were written")
        found = self._digest.hexdigest()
        self._stream.seek(0)
        self._stream.write(self._header(found))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return found

    def done(self) -> Entry:
        """The file's entry. Raises ValueError before the matrix is in the cache."""
        if self.entry is None:
            raise ValueError("the matrix is not in the cache yet")
        return self.entry

    def _header(self, checksum: str) -> bytes:
        """safetensors' header; its length does not depend on the checksum."""
        if self._header_of is None:
            raise ValueError("a matrix without rows has no form")
        width, dtype = self._header_of
        shape = [self._rows, *width]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        text = json.dumps(
            {
                "__metadata__": {_SHA256: checksum},
                TENSOR: {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [0, size]},
            }
        ).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


class FeatureCache:
    """The files under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the file of this name is."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def find(self, key: str) -> Entry | None:
        """The file of this name, if it is there and whole; every byte is read."""
        path = self.path(key)
        if not path.is_file() or (found := checksum_of(path)) is None:
            return None
        return Entry(key, found)

    @contextmanager
    def growing(self, key: str, rows: int) -> Iterator[GrowingFile]:
        """A file to be, which is in the cache under `key` when the block ends well, and is gone otherwise.

        Of two jobs that make the same file the first one's stays. Raises PipelineError when the disk is full.
        """
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{key}.{uuid.uuid4().hex}.partial")
        with self._lock():
            stream = partial.open("w+b")
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            with stream:
                growing = GrowingFile(stream, rows)
                yield growing
                checksum = growing.finish()
                with self._lock():
                    growing.entry = self.find(key)
                    if growing.entry is None:
                        partial.replace(path)
                        _fsync_folder(path.parent)
                        growing.entry = Entry(key, checksum)
        except OSError as error:
            explain_full_disk(error, path)
            raise
        finally:
            partial.unlink(missing_ok=True)

    def store(self, key: str, rows: npt.NDArray[Any]) -> Entry:
        """Put a matrix that is in memory under `key`; what is whole there already stays."""
        if found := self.find(key):
            return found
        with self.growing(key, len(rows)) as growing:
            growing.append(rows)
        return growing.done()

    def remove_torn(self) -> int:
        """Delete what killed jobs left half-written; files that a living job still writes are locked. How many."""
        removed = 0
        with self._lock():
            for partial in self.folder.glob("??/.*.partial"):
                with suppress(FileNotFoundError, BlockingIOError), partial.open("rb") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    partial.unlink()
                    removed += 1
        return removed

    def _lock(self) -> FileLock:
        """Held while a file appears under its right name, or under a name of its own, or is found to be nobody's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")


def checksum_of(path: Path) -> str | None:
    """The sha256 of the tensor's bytes, or None for a file that is torn, changed or of another form."""
    try:
        with safe_open(path, framework="numpy") as opened:
            told = (opened.metadata() or {}).get(_SHA256)
            if list(opened.keys()) != [TENSOR]:
                return None
        with path.open("rb") as stream:
            stream.seek(8 + int.from_bytes(stream.read(8), "little"))
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except (SafetensorError, OSError):
        return None
    return found if found == told else None


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
