"""A store of one run's own on the shared results folder, for what a server does not take now.

<results_dir>/mlflow_spool/<spool id>/   mlflow.db and mlartifacts/, written by the same code as any store
                           .../server_uri   where to merge it; there from when the run is open until it is merged
<results_dir>/mlflow_spool/<spool id>.lock   held by the step while it runs, and by whoever merges
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline_steps.core.files import write_text

FOLDER = "mlflow_spool"
_MARK = "server_uri"


def results_dir() -> Path:
    """The folder that all machines share, for spools and the lock of a server: PIPELINE_RESULTS_DIR, or results."""
    return Path(os.environ.get("PIPELINE_RESULTS_DIR") or "results").absolute()


class Spool:
    """One spool, held by this process until `release`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder.with_suffix(".lock"))
        self._lock.acquire(timeout=0)

    @classmethod
    def create(cls, results: Path, spool_id: str) -> Spool:
        """The spool of a run, which this process makes."""
        spool = cls(results / FOLDER / spool_id)
        spool.folder.mkdir(parents=True, exist_ok=True)
        return spool

    @property
    def uri(self) -> str:
        """The spool as an MLflow store."""
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def server_uri(self) -> str | None:
        """Where to merge it; None where its step died before it logged anything, and where it has been merged."""
        mark = self.folder / _MARK
        return mark.read_text(encoding="utf-8") if mark.is_file() else None

    def keep_for(self, server_uri: str) -> None:
        """From here on the spool counts."""
        write_text(self.folder / _MARK, server_uri)

    def remove(self) -> None:
        """Delete it; in whatever moment this ends, it is not merged again, and the next merge deletes what is left."""
        (self.folder / _MARK).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # a network file system keeps files that are open

    def release(self) -> None:
        """Leave it to whoever merges."""
        self._lock.release()


def spool_folders(results: Path) -> list[Path]:
    """The spools under a results folder, those among them whose step still runs."""
    return sorted(path for path in (results / FOLDER).glob("*") if path.is_dir())


@contextmanager
def held(folder: Path) -> Iterator[Spool | None]:
    """The spool, or None where another process holds it or has removed it."""
    try:
        spool = Spool(folder)
    except Timeout:
        yield None
        return
    try:
        yield spool if folder.is_dir() else None
    finally:
        spool.release()
        if not folder.is_dir():
            folder.with_suffix(".lock").unlink(missing_ok=True)
            with suppress(OSError):
                folder.parent.rmdir()
