"""A download in parts: which shards of the list a part has, and the parts' folders brought together."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import explain_full_disk, publish_folder

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_LINKING_THREADS = 32  # a network's file system answers each link late, and many at once


class Part(NamedTuple):
    """Part `number` (from 1) of `of`: whole shards, with the numbers that they have in a download of the whole list."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Snakemake's name of a scattered item, such as "3-of-16". Raises PipelineError for another text."""
        found = re.fullmatch(r"(\d+)-of-(\d+)", text)
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise PipelineError(f"--part {text!r} names no part; give one such as 3-of-16")
        return part

    def shards(self, shards_of_list: int) -> range:
        """Its shards. The parts differ by one shard at most; where there are more parts than shards, some are empty."""
        return range(shards_of_list * (self.number - 1) // self.of, shards_of_list * self.number // self.of)


def require_one_list(parts: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> None:
    """Raise PipelineError unless these are all parts, each once, of one and the same list."""
    lists = {report["source_sha256"] for report in reports}
    if len(lists) == 1 and sorted(report["part"] for report in reports) == [
        [number, len(parts)] for number in range(1, len(parts) + 1)
    ]:
        return
    told = ", ".join(
        f"{images.parent} (part {report['part'][0]} of {report['part'][1]}, list {report['source_sha256'][:8]})"
        for images, report in zip(parts, reports, strict=True)
    )
    raise PipelineError(
        f"these are not all parts of one list: {told}. The list was probably edited between them; remove the parts of "
        "its older state and run the stage again."
    )


def poor_parts(parts: Sequence[Path], reports: Sequence[Mapping[str, Any]], least: float) -> str:
    """Which parts have less than the fraction `least` of their pictures, and how they are fetched again."""
    fractions = [report["success_fraction"] for report in reports]
    poor = [str(images.parent) for images, fraction in zip(parts, fractions, strict=True) if fraction < least]
    return (
        f"The poor parts are {', '.join(poor)}: remove these folders to have them alone fetched again, with the "
        "settings as they are (another one fetches all parts again)."
    )


def bring_together(parts: Sequence[Path], images: Path) -> None:
    """Make `images` of the members of all parts' folders, which stay: as hard links, so that nothing is copied.

    Raises PipelineError where the file system has no hard links, where it is full, and for members of one name.
    """
    merged = images.with_name(f".{images.name}.merge")
    if merged.exists():
        shutil.rmtree(merged)
    merged.mkdir(parents=True)
    try:
        with ThreadPoolExecutor(_LINKING_THREADS) as pool:
            for part in parts:
                _link(part, merged, pool)
        publish_folder(merged, images)
    except FileExistsError as error:
        raise PipelineError(
            f"two of the parts {', '.join(map(str, parts))} have {error.filename2 or error.filename}; they are not "
            "parts of one list. Remove them and run the stage again."
        ) from error
    except OSError as error:
        explain_full_disk(error, merged)
        if error.errno not in _NO_LINKS:
            raise
        raise PipelineError(
            f"the file system of {images} takes no hard links ({error.strerror}), by which parts are brought together "
            "without a copy. Put results_dir on another file system, or set download_images.jobs to 1."
        ) from error
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _link(part: Path, merged: Path, pool: ThreadPoolExecutor) -> None:
    for folder, _, names in os.walk(part):
        target = merged / Path(folder).relative_to(part)
        target.mkdir(exist_ok=target == merged)
        members = [name for name in names if not name.startswith(".")]
        for _ in pool.map(lambda name, at=folder, to=target: os.link(f"{at}/{name}", to / name), members):
            pass
