"""The manifest: a parquet table of image-caption pairs. What training reads is apart from what it must never see."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file

TRAIN, VALIDATION = "train", "validation"
TRAINING_COLUMNS = ("id", "image_path", "caption", "split")
TRUTH_COLUMNS = ("is_noisy", "clean_caption")
CSV_COLUMNS = ("image_path", "text_content")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_noisy", pa.bool_(), nullable=False),
        pa.field("clean_caption", pa.string(), nullable=False),
    ]
)
_ROOT_KEY = b"image_root"


def write_manifest(path: Path, table: pa.Table, root: Path) -> None:
    """Write a table of SCHEMA; `root`, which its image_path values start from, goes into the file as it is given."""
    with whole_file(path) as partial:
        pq.write_table(table.cast(SCHEMA).replace_schema_metadata({_ROOT_KEY: str(root).encode()}), partial)


def write_pairs_csv(path: Path, table: pa.Table, root: Path) -> None:
    """Write the training split in the layout of NCU's official code: image_path, text_content.

    That code takes the paths as relative to the CSV's own folder, so they are.
    """
    rows = table.filter(pc.equal(table["split"], TRAIN))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = os.path.relpath(root.resolve(), path.parent.resolve())
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for image_path, caption in zip(rows["image_path"].to_pylist(), rows["caption"].to_pylist(), strict=True):
            writer.writerow([Path(prefix, image_path).as_posix(), caption])


def read_manifest(path: Path, columns: Sequence[str]) -> pa.Table:
    """The named columns of a manifest, rows in the file's order (by id).

    Raises PipelineError when `path` is not a manifest, lacks a column (naming those it has) or has no row.
    """
    present = _schema(path).names
    missing = [name for name in columns if name not in present]
    if missing:
        raise PipelineError(
            f"the manifest {path} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, present))}. Make it with the stage build_manifest."
        )
    table = pq.read_table(path, columns=list(columns))
    if table.num_rows == 0:
        raise PipelineError(f"the manifest {path} has no row; run the stage build_manifest on pictures with captions")
    return table


def image_root(path: Path) -> Path:
    """The folder that a manifest's image_path values start from. Raises PipelineError when it names none."""
    root = (_schema(path).metadata or {}).get(_ROOT_KEY)
    if root is None:
        raise PipelineError(f"{path} does not say where its pictures are; make it with the stage build_manifest")
    return Path(os.fsdecode(root))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise PipelineError(
            f"{path} cannot be read as a manifest ({' '.join(str(error).split())}); "
            "make it with the stage build_manifest"
        ) from error
