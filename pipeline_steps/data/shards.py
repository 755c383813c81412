"""img2dataset's folder of its output format "files": NNNNN.parquet about NNNNN/<key>.<jpg|png|webp>, .txt, .json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError

PICTURE_SUFFIXES = (".jpg", ".png", ".webp")


def shard_tables(folder: Path, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each finished shard's name and its rows, a row per URL in the order of arrival; shards sorted by name.

    Raises PipelineError when a shard's table lacks a column.
    """
    for path in sorted(folder.glob("*.parquet")):
        if path.stem.isdecimal() and (folder / f"{path.stem}_stats.json").is_file():
            missing = sorted(set(columns) - set(pq.read_schema(path).names))
            if missing:
                raise PipelineError(
                    f"{path} has no column {', '.join(missing)}; make it with the stage download_images"
                )
            yield path.stem, pq.read_table(path, columns=list(columns))


def picture_sizes(shard: Path) -> dict[str, tuple[str, int]]:
    """Key -> file name and bytes of the pictures in a shard's folder, which may also hold those of an older try."""
    if not shard.is_dir():
        return {}
    with os.scandir(shard) as entries:
        pictures = [entry for entry in entries if entry.name.endswith(PICTURE_SUFFIXES)]
        return {Path(entry.name).stem: (entry.name, entry.stat().st_size) for entry in pictures}
