"""Files that appear whole or not at all: write beside, fsync, rename; one writer at a time."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline_steps.core.errors import FullDiskError, PipelineError

Value = TypeVar("Value")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, it becomes `path` in one rename.

    On an exception the temporary file goes and `path` keeps its old content. Raises PipelineError when the disk
    or the quota is full.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    try:
        yield partial
        _fsync(partial)
        partial.replace(path)
        _fsync(path.parent)
    except OSError as error:
        explain_full_disk(error, path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Like `whole_file` for a folder: what the block writes into the temporary folder appears at once as `path`.

    An older folder at `path` is replaced. Raises PipelineError when the disk or the quota is full.
    """
    require_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    partial.mkdir()
    try:
        yield partial
        for member in partial.rglob("*"):
            if member.is_file():
                _fsync(member)
        if path.exists():
            shutil.rmtree(path)  # where it is a file, that is told
        partial.replace(path)
        _fsync(path.parent)
    except OSError as error:
        explain_full_disk(error, path)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_replaceable(path: Path) -> None:
    """Raise PipelineError where something stands at `path` that is neither a file nor a folder of its own."""
    if path.is_symlink():
        raise PipelineError(
            f"{path} is a link to {path.readlink()}, which is not written over. Remove it, or name another"
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise PipelineError(f"{path} is a device or a pipe, which is not written over. Name a file or a folder")


def publish_folder(finished: Path, path: Path) -> None:
    """Make a finished folder of very many files `path` in one rename, replacing an older one.

    One flush of the whole system before it: an fsync of each of many small files would take far longer.
    """
    require_replaceable(path)
    os.sync()
    if path.exists():
        shutil.rmtree(path)
    finished.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` is either the old file or the whole new one."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def refused_name(report: Path) -> Path:
    """Where the report of a refused run goes: beside `report`, which Snakemake removes when the step fails."""
    return report.with_name(f"refused_{report.name}")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type[Value], remedy: str) -> Value:
    """What a JSON file holds, as a `kind`. Raises PipelineError, with `remedy`, where it is missing or does not fit."""
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing. {remedy}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PipelineError(f"{path} is not what it should be: {error}. {remedy}") from error


def sha256_of(path: Path, patterns: Iterable[str] = ("**/*",)) -> str:
    """Hex sha256 of a file's bytes, or of the names and bytes of a folder's members that match, in sorted order.

    Members whose name starts with a dot do not count: Snakemake keeps its time stamp there.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        members = {p for pattern in patterns for p in path.glob(pattern) if p.is_file() and p.name[0] != "."}
        for member in sorted(members):
            digest.update(f"{member.relative_to(path).as_posix()}\0{sha256_of(member)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_free_disk(folder: Path, needed_bytes: int) -> None:
    """Raise PipelineError when the file system that holds `folder` has fewer than `needed_bytes` bytes free."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise FullDiskError(
            f"no room on disk: {folder} needs about {needed_bytes / 2**20:,.0f} MiB and its file system has "
            f"{free / 2**20:,.0f} MiB free. Free some space, or put the results folder (`results_dir`) elsewhere."
        )


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of one output; raise PipelineError when another process is writing it now."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PipelineError(
            f"another process is writing {path} (it holds {lock.lock_file}). "
            "Wait until it has ended, or give this run another results folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _partial_name(path: Path) -> Path:
    """A new temporary name beside `path`. What a killed writer left under such names goes: a path has one writer."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.partial"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def explain_full_disk(error: OSError, path: Path) -> None:
    """Raise PipelineError when `error`, met while writing `path`, says that the disk or the quota is full."""
    if error.errno in _NO_SPACE:
        raise FullDiskError(
            f"no room to write {path}: {error.strerror}. Nothing half-written was left; free some space and run again."
        ) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
