"""Paths that stay below a root, for millions of them: links are looked up once a folder, not once a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from pipeline_steps.core.errors import PipelineError

_FOLDERS_KNOWN = 65_536
_REFUSED_NAMED = 10


class Containment:
    """Makes paths relative to `root`, and keeps count of those that lead outside it and outside the `others`."""

    def __init__(self, root: Path, others: Iterable[str | Path] = ()) -> None:
        self._root = root
        self._real = os.path.realpath(root)
        self._others = tuple(f"{os.path.realpath(other).rstrip('/')}/" for other in others)
        self._folder = lru_cache(_FOLDERS_KNOWN)(self._look_up)
        self._seen = self._refused = 0
        self._named: list[str] = []

    def inside(self, paths: Sequence[str]) -> list[str | None]:
        """The paths relative to the root, POSIX, without `.` and links; None for those that are empty or lead outside:
        absolute elsewhere, by `..`, or through a symbolic link. One that leads into one of the others goes there by
        `..`. A missing file is no matter here.
        """
        found = [self._inside(path) for path in paths]
        for row, (path, inside) in enumerate(zip(paths, found, strict=True), self._seen + 1):
            if inside is None:
                self._refused += 1
                if len(self._named) < _REFUSED_NAMED:
                    self._named.append(f"row {row}: {path!r}")
        self._seen += len(paths)
        return found

    def refuse_strays(self) -> None:
        """Raise PipelineError naming the first rows so far whose path leads outside, if there are any."""
        if not self._refused:
            return
        more = f" and {self._refused - len(self._named)} more" if self._refused > len(self._named) else ""
        raise PipelineError(
            f"{self._refused} of {self._seen} rows have an image path that leads outside the root {self._root} (or "
            f"none): {'; '.join(self._named)}{more}. Set build_manifest.image_root to the folder that holds all "
            "pictures, and write paths that start from it. Links to pictures elsewhere, and paths there, are followed "
            "into the folders of build_manifest.link_roots alone."
        )

    def _inside(self, path: str) -> str | None:
        if not path or "\0" in path:
            return None
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return self._resolved(path)
        prefix, links = self._folder(folder)
        if prefix is None:
            return None
        return self._resolved(path) if links is None or name in links else prefix + name

    def _look_up(self, folder: str) -> tuple[str | None, frozenset[str] | None]:
        """A folder's real path from the root on (None: outside) and the links in it (None: not to be known)."""
        real = os.path.realpath(os.path.join(self._real, folder))  # noqa: PTH118 - Path is far slower
        relative = "" if real == self._real else self._relative(real)
        if relative is None:
            return None, None
        try:
            with os.scandir(real) as entries:
                links = frozenset(entry.name for entry in entries if entry.is_symlink())
        except (FileNotFoundError, NotADirectoryError):
            links = frozenset()
        except OSError:
            return relative and f"{relative}/", None
        return relative and f"{relative}/", links

    def _resolved(self, path: str) -> str | None:
        return self._relative(os.path.realpath(os.path.join(self._real, path)))  # noqa: PTH118 - as above

    def _relative(self, real: str) -> str | None:
        top = self._real.rstrip("/") + "/"
        if real.startswith(top):
            return real.removeprefix(top)
        return os.path.relpath(real, self._real) if f"{real}/".startswith(self._others) else None
