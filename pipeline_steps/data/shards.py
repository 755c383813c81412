"""img2dataset's folder: NNNNN.parquet and NNNNN_stats.json of every shard, beside the pictures of its output format.

"files": NNNNN/<key>.<jpg|png|webp>, .txt, .json. "webdataset": the same members in NNNNN.tar.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.parquet_file import DAMAGE, damaged

PICTURE_SUFFIXES = (".jpg", ".png", ".webp")
SHARD_ENDING = ".tar"
_END_OF_TAR = 1024


def finished_shards(folder: Path) -> list[str]:
    """The names of the shards that have their table and their statistics, sorted."""
    return sorted(
        path.stem
        for path in folder.glob("*.parquet")
        if path.stem.isdecimal() and (folder / f"{path.stem}_stats.json").is_file()
    )


def shard_tables(folder: Path, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each finished shard's name and its rows, a row per URL in the order of arrival; shards sorted by name.

    Raises PipelineError when a shard's table lacks a column.
    """
    for name in finished_shards(folder):
        path = folder / f"{name}.parquet"
        remedy = "Make it with the stage download_images."
        try:
            missing = sorted(set(columns) - set(pq.read_schema(path).names))
            if missing:
                raise PipelineError(f"{path} has no column {', '.join(missing)}. {remedy}")
            yield name, pq.read_table(path, columns=list(columns))
        except DAMAGE as error:
            raise damaged(path, error, remedy) from error


def remove_shards(folder: Path, first: int) -> None:
    """Remove the shards from number `first` on: what says that they are finished before what they hold."""
    members = [path for path in folder.glob("[0-9]*") if int(re.match(r"\d+", path.name)[0]) >= first]  # type: ignore[index]
    for path in sorted(members, key=lambda path: not path.name.endswith("_stats.json")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def picture_sizes(shard: Path) -> dict[str, tuple[str, int]]:
    """Key -> file name and bytes of the pictures in a shard's folder, which may also hold those of an older try."""
    if not shard.is_dir():
        return {}
    with os.scandir(shard) as entries:
        pictures = [entry for entry in entries if entry.name.endswith(PICTURE_SUFFIXES)]
        return {Path(entry.name).stem: (entry.name, entry.stat().st_size) for entry in pictures}


def is_whole_tar(path: Path) -> bool:
    """Whether a file ends as a tar does, with two blocks of zeros: one that was cut short does not."""
    try:
        with path.open("rb") as stream:
            return stream.seek(0, os.SEEK_END) >= _END_OF_TAR and not any(
                os.pread(stream.fileno(), _END_OF_TAR, stream.tell() - _END_OF_TAR)
            )
    except OSError:
        return False
