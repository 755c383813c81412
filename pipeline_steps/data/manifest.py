"""The manifest: a parquet table of image-caption pairs. What training reads is apart from what it must never see."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import whole_file
from pipeline_steps.data.parquet_file import DAMAGE, READ, WRITTEN, damaged, reading

TRAIN, VALIDATION = "train", "validation"
TRAINING_COLUMNS = ("image_path", "image_offset", "image_bytes", "caption")
TRUTH_COLUMNS = ("is_noisy", "clean_caption")
CSV_COLUMNS = ("image_path", "text_content")
SHARD_CSV_COLUMNS = ("image_offset", "image_bytes")
ROW_GROUP_ROWS = 2**17
# Where image_offset is not null, image_path is a tar shard and the picture is the image_bytes bytes from there on.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("image_offset", pa.int64()),
        pa.field("image_bytes", pa.int32()),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("phash", pa.int64(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("is_noisy", pa.bool_(), nullable=False),
        pa.field("clean_caption", pa.string(), nullable=False),
    ]
)
_REMEDY = "Make the manifest with the stage build_manifest."
_ROOT_KEY = b"image_root"
_FEW_VALUES = ("image_path", "split")


def write_manifest(path: Path, rows: pa.Table | Iterable[pa.RecordBatch], root: Path) -> None:
    """Write rows with SCHEMA's columns, in groups of ROW_GROUP_ROWS.

    `root`, which the image_path values start from, goes into the file as it is given.
    """
    schema = SCHEMA.with_metadata({_ROOT_KEY: str(root).encode()})
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    with whole_file(path) as partial, pq.ParquetWriter(partial, schema, **WRITTEN) as writer:
        for table in _groups(batches):
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP_ROWS)


def write_pairs_csv(path: Path, manifest: Path, root: Path) -> None:
    """Write the training split of a manifest in the layout of NCU's official code: image_path, text_content.

    That code takes the paths as relative to the CSV's own folder, so they are. It reads files; where the pictures are
    in tar shards, their place in the shard stands in two more columns, image_offset and image_bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = os.path.relpath(root.resolve(), path.parent.resolve())
    start = "" if prefix == "." else f"{prefix}/"
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)  # a lone \\r needs quotes too
        columns = ("image_path", "caption", *SHARD_CSV_COLUMNS)
        width = 2
        for number, batch in enumerate(_split_batches(manifest, columns, TRAIN)):
            if number == 0:
                width = 4 if batch.column("image_offset").null_count < batch.num_rows else 2
                writer.writerow((*CSV_COLUMNS, *SHARD_CSV_COLUMNS)[:width])
            paths, *others = (batch.column(name).to_pylist() for name in columns[:width])
            writer.writerows(zip((start + image_path for image_path in paths), *others, strict=True))


def training_rows(path: Path, pairs: int | None, columns: Sequence[str]) -> pa.Table:
    """The named columns of the first `pairs` rows of the training split; None: of all.

    Ids are hashes, so the first rows in their order are a random sample, and a smaller one is part of a larger. The
    file is read group by group and no further than needed; text has 64-bit offsets, and image_path and split, where
    few values repeat, are dictionaries. Raises PipelineError when the split is empty or has fewer than `pairs` rows.
    """
    found: list[pa.RecordBatch] = []
    count = 0
    for batch in _split_batches(path, columns, TRAIN):
        found.append(batch if pairs is None else batch.slice(0, pairs - count))
        count += found[-1].num_rows
        if count == pairs:
            break
    if count == 0:
        raise PipelineError(f"{path} has no row of the split {TRAIN!r}; check build_manifest.validation_fraction")
    if pairs is not None and count < pairs:
        raise PipelineError(
            f"training.pairs = {pairs:,} is more than the {count:,} training pairs of {path}; allowed: at most {count} "
            "(or null for all of them)"
        )
    return pa.Table.from_batches(found).unify_dictionaries()


def training_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The named columns of the training split, part by part. Raises PipelineError when the manifest lacks one."""
    return _split_batches(path, columns, TRAIN)


def validation_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    """The named columns of the held-out split, in the file's order. Raises PipelineError when it is empty."""
    found = list(_split_batches(path, columns, VALIDATION))
    if not found:
        raise PipelineError(f"{path} has no row of the split {VALIDATION!r}; raise build_manifest.validation_fraction")
    return pa.Table.from_batches(found).unify_dictionaries()


def image_root(path: Path) -> Path:
    """The folder that a manifest's image_path values start from. Raises PipelineError when it names none."""
    with _opened(path, ()) as file:
        root = (file.schema_arrow.metadata or {}).get(_ROOT_KEY)
    if root is None:
        raise PipelineError(f"{path} does not say where its pictures are; make it with the stage build_manifest")
    return Path(os.fsdecode(root))


def _split_batches(path: Path, columns: Sequence[str], split: str) -> Iterator[pa.RecordBatch]:
    wanted = list(dict.fromkeys([*columns, "split"]))
    with _opened(path, wanted) as file:
        shards = "image_offset" in file.schema_arrow.names and _in_shards(path, file)
    few = [name for name in _FEW_VALUES if name in columns and (shards or name == "split")]
    with _opened(path, wanted, read_dictionary=few) as file:
        yield from reading(path, _rows_of(file, wanted, columns, split), _REMEDY)


def _rows_of(file: pq.ParquetFile, wanted: list[str], columns: Sequence[str], split: str) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):  # one iteration over all groups would keep what it has read
        for batch in file.iter_batches(ROW_GROUP_ROWS, row_groups=[group], columns=wanted):
            rows = batch.filter(pc.equal(batch.column("split"), split)).select(list(columns))
            if rows.num_rows:
                yield rows.cast(pa.schema([_wide(field) for field in rows.schema]))


def _in_shards(path: Path, file: pq.ParquetFile) -> bool:
    """Whether the pictures are in tar shards: all of a manifest are, or none."""
    first = next(reading(path, file.iter_batches(1, columns=["image_offset"]), _REMEDY), None)
    return first is not None and first.column(0).null_count == 0


def _wide(field: pa.Field) -> pa.Field:
    return field.with_type(pa.large_string()) if field.type == pa.string() else field


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of ROW_GROUP_ROWS; the last one has what is left, and there is at least one."""
    waiting = SCHEMA.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).select(SCHEMA.names).cast(SCHEMA)])
        while waiting.num_rows >= ROW_GROUP_ROWS:
            yield waiting.slice(0, ROW_GROUP_ROWS)
            waiting = waiting.slice(ROW_GROUP_ROWS)
    yield waiting


@contextmanager
def _opened(path: Path, columns: Sequence[str], **options: Any) -> Iterator[pq.ParquetFile]:
    """A manifest open for reading. Raises PipelineError when it is none, and when it lacks a column."""
    try:
        file = pq.ParquetFile(path, **READ, **options)
    except DAMAGE as error:
        raise damaged(path, error, _REMEDY) from error
    with file:
        present = file.schema_arrow.names
        missing = [name for name in columns if name not in present]
        if missing:
            raise PipelineError(
                f"the manifest {path} has no column {', '.join(map(repr, missing))}; "
                f"it has {', '.join(map(repr, present))}. {_REMEDY}"
            )
        fields = [field for field in SCHEMA if field.name in columns]
        forms = [(file.schema_arrow.field(field.name), field) for field in fields]
        strange = [
            f"{one.name} is {one.type} and not {field.type}" for one, field in forms if _kind(one) != _kind(field)
        ]
        if strange:
            raise PipelineError(f"the manifest {path} is of another form: {', '.join(strange)}. {_REMEDY}")
        yield file


def _kind(field: pa.Field) -> str:
    """What a column holds, whatever its width or encoding."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return "integer" if pa.types.is_integer(kind) else str(kind).removeprefix("large_")
