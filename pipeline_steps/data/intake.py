"""Rows and checked pictures into the tables `rows`, `pictures` and `broken`, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import joblib
import pyarrow as pa
from duckdb import DuckDBPyConnection

from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.data.database import insert, scalar
from pipeline_steps.data.image_check import CHUNK, BadPicture, Picture, check_pictures
from pipeline_steps.data.pair_source import FilePairs, PairSource, ShardPairs
from pipeline_steps.data.progress import progress_bar
from pipeline_steps.data.selection import fitted_caption
from pipeline_steps.data.tar_shards import Broken, Sample, read_shard

_AT_ONCE = 20_000
_PLACE = [("image_path", pa.string()), ("image_offset", pa.int64())]
ROWS = pa.schema(
    [
        ("row", pa.int64()), *_PLACE, ("image_bytes", pa.int64()), ("caption", pa.string()), ("fitted", pa.string()),
        ("is_empty", pa.bool_()),
    ]
)  # fmt: skip
PICTURES = pa.schema(
    [
        *_PLACE, ("sha256", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("phash", pa.int64()),
        ("cause", pa.string()), ("message", pa.string()),
    ]
)  # fmt: skip
BROKEN = pa.schema([("shard", pa.string()), ("key", pa.string()), ("cause", pa.string()), ("message", pa.string())])


def create_tables(database: DuckDBPyConnection) -> None:
    """The empty tables.

    `rows`: number of the row in its source, place of the picture (file, or shard and byte range), caption, the
    caption cut to size where it is too long (`fitted`), whether it is blank. `pictures`: by place, hashes and size in
    pixels, or the cause and message of a bad one. `broken`: what in tar shards gives no row.
    """
    for name, schema in (("rows", ROWS), ("pictures", PICTURES), ("broken", BROKEN)):
        database.register("form", schema.empty_table())
        database.execute(f"CREATE TABLE {name} AS SELECT * FROM form")  # noqa: S608 - names from above
        database.unregister("form")


def take_in(database: DuckDBPyConnection, source: PairSource, settings: BuildManifestConfig, processes: int) -> None:
    """Fill the tables from a source, every picture checked once in so many processes (0: all CPUs)."""
    if isinstance(source, ShardPairs):
        _take_shards(database, source, settings, processes)
    else:
        _take_files(database, source, settings, processes)


def row_columns(first: int, captions: Sequence[str], max_characters: int) -> dict[str, Any]:
    """The columns of `rows` that follow from the captions of consecutive rows, of which `first` is the number."""
    fitted = [fitted_caption(caption, max_characters) for caption in captions]
    return {
        "row": range(first, first + len(captions)),
        "caption": captions,
        "fitted": [None if cut == caption else cut for cut, caption in zip(fitted, captions, strict=True)],
        "is_empty": [not caption.strip() for caption in captions],
    }


def _take_files(database: DuckDBPyConnection, source: FilePairs, settings: BuildManifestConfig, processes: int) -> None:
    count = 0
    for batch in source.batches:
        columns = row_columns(count, batch.column("caption").to_pylist(), settings.max_caption_characters)
        insert(database, "rows", _table(columns | {"image_path": batch.column("image_path")}, ROWS))
        count += batch.num_rows
    total = scalar(database, "SELECT count(DISTINCT image_path) FROM rows")
    with database.cursor() as second:
        paths = second.sql("SELECT DISTINCT image_path FROM rows ORDER BY image_path").to_arrow_reader(_AT_ONCE)
        found = check_pictures(
            source.root, _chunks(paths), total=total, max_image_pixels=settings.max_image_pixels, processes=processes
        )
        while part := list(islice(found, _AT_ONCE)):
            checked = _checked([picture for _, picture in part])
            insert(database, "pictures", _table(checked | {"image_path": [path for path, _ in part]}, PICTURES))


def _take_shards(
    database: DuckDBPyConnection, source: ShardPairs, settings: BuildManifestConfig, processes: int
) -> None:
    workers = min(processes or joblib.cpu_count(), len(source.shards))
    read = joblib.delayed(read_shard)
    jobs = (read(source.root / shard, source.caption_field, settings.max_image_pixels) for shard in source.shards)
    results = joblib.Parallel(workers, return_as="generator")(jobs)
    count = 0
    with progress_bar(len(source.shards), "build_manifest", "shard") as bar:
        for shard, (samples, broken) in zip(source.shards, results, strict=True):
            captions = [sample.caption for sample in samples]
            columns = row_columns(count, captions, settings.max_caption_characters)
            _take_samples(database, shard, samples, columns)
            insert(database, "broken", _broken(shard, broken))
            count += len(samples)
            bar.update()


def _take_samples(database: DuckDBPyConnection, shard: str, samples: Sequence[Sample], columns: dict[str, Any]) -> None:
    place = {"image_path": [shard] * len(samples), "image_offset": [sample.offset for sample in samples]}
    sizes = {"image_bytes": [sample.size for sample in samples]}
    insert(database, "rows", _table(columns | place | sizes, ROWS))
    insert(database, "pictures", _table(_checked([sample.picture for sample in samples]) | place, PICTURES))


def _chunks(paths: pa.RecordBatchReader) -> Iterator[list[str]]:
    for batch in paths:
        for start in range(0, batch.num_rows, CHUNK):
            yield batch.column("image_path").slice(start, CHUNK).to_pylist()


def _checked(pictures: Sequence[Picture | BadPicture]) -> dict[str, Any]:
    good = [picture if isinstance(picture, Picture) else None for picture in pictures]
    bad = [picture if isinstance(picture, BadPicture) else None for picture in pictures]
    return {
        "sha256": [one and one.sha256 for one in good],
        "width": [one and one.width for one in good],
        "height": [one and one.height for one in good],
        "phash": [one and one.phash for one in good],
        "cause": [one and one.cause for one in bad],
        "message": [one and one.message for one in bad],
    }


def _broken(shard: str, broken: Sequence[Broken]) -> pa.Table:
    columns = {
        "shard": [shard] * len(broken),
        "key": [_printable(one.key) for one in broken],
        "cause": [one.cause for one in broken],
        "message": [_printable(one.message) for one in broken],
    }
    return _table(columns, BROKEN)


def _printable(text: str) -> str:
    """`text` as UTF-8 can hold it: names in a tar may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    present = [field for field in schema if field.name in columns]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in present})
