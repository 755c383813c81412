"""The state of an interrupted training, beside the declared output and under a name of its own."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from pipeline_steps.core.files import require_free_disk, whole_file

LOG = logging.getLogger("pipeline_steps")
_DIGEST = hashlib.sha256().digest_size
_PART = 2**22


def state_path(checkpoint: Path) -> Path:
    """Where the state of the training that will write `checkpoint` stands."""
    return checkpoint.with_name(f"{checkpoint.name}.resume.pt")


def save_state(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the state whole or not at all. `fingerprint` names settings and inputs that it belongs to.

    The file ends in the sha256 of what stands before. Raises PipelineError when the disk is full.
    """
    require_free_disk(path.parent, _bytes_of(state))
    with whole_file(path) as partial, partial.open("wb") as stream:
        hashing = _Hashing(stream)
        try:
            torch.save({"fingerprint": fingerprint, **state}, cast(BinaryIO, hashing))
        except RuntimeError:
            if hashing.error is not None:  # torch says that it lost its place, and not why
                raise hashing.error from None
            raise
        stream.write(hashing.sha256.digest())


def load_state(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state for this very training, or None. A torn file and one of another training are named and left aside."""
    if not path.is_file():
        return None
    if not _is_whole(path):
        LOG.warning("%s is torn or is no state file, and is not used; training starts from the beginning", path)
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        LOG.warning("%s is foreign and is not used (%s); training starts from the beginning", path, error)
        return None
    if found != fingerprint:
        LOG.warning("%s belongs to other settings or inputs and is not used; training starts from the beginning", path)
        return None
    return dict(state)


def _is_whole(path: Path) -> bool:
    """Whether the file ends in the sha256 of what stands before."""
    sha256, left = hashlib.sha256(), path.stat().st_size - _DIGEST
    with path.open("rb") as stream:
        while left > 0:
            part = stream.read(min(left, _PART))
            sha256.update(part)
            left -= len(part)
        return stream.read() == sha256.digest()


class _Hashing:
    """A stream to write to that keeps the sha256 of what went through, and the error of the system, if one came."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._stream.flush()


def _bytes_of(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_bytes_of(member) for member in members)
