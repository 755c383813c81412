"""The database's tables out of lists, and the manifest's rows that come of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import BuildManifestConfig, NoiseConfig
from pipeline_steps.data.assembly import manifest_report, manifest_rows
from pipeline_steps.data.database import define_functions, insert
from pipeline_steps.data.image_check import BadPicture, Picture
from pipeline_steps.data.intake import PICTURES, ROWS, create_tables, row_columns
from pipeline_steps.data.manifest import SCHEMA
from pipeline_steps.data.noise import shuffle_captions
from pipeline_steps.data.selection import select_pairs
from tests.unit.data.made_data import section

Pictures = Mapping[str, Picture | BadPicture]


def manifest_settings(**changes: object) -> BuildManifestConfig:
    return load_section(section("build_manifest", **changes), "build_manifest", BuildManifestConfig)


@cache
def _in_memory() -> DuckDBPyConnection:
    it = duckdb.connect(config={"threads": 1, "preserve_insertion_order": False})
    define_functions(it)
    create_tables(it)
    return it


@contextmanager
def database() -> Iterator[DuckDBPyConnection]:
    """An empty database in memory, as `working_database` gives one on disk; what the block does is undone."""
    it = _in_memory()
    it.begin()
    try:
        yield it
    finally:
        it.rollback()


def fill(it: DuckDBPyConnection, rows: Sequence[tuple[str, str]], pictures: Pictures, max_characters: int) -> None:
    columns = row_columns(0, [caption for _, caption in rows], max_characters)
    paths = [path for path, _ in rows]
    insert(it, "rows", pa.table({name: pa.array(columns[name], ROWS.field(name).type) for name in columns}
                                | {"image_path": pa.array(paths, pa.string())}))  # fmt: skip
    found: list[dict[str, Any]] = [
        {name: getattr(picture, name, None) for name in PICTURES.names} | {"image_path": path}
        for path, picture in pictures.items()
    ]
    insert(it, "pictures", pa.Table.from_pylist(found, schema=PICTURES))


def built(
    rows: Sequence[tuple[str, str]], pictures: Pictures, settings: BuildManifestConfig
) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, Any]]:
    """The manifest's rows, the counts of the selection, and the report."""
    with database() as it:
        fill(it, rows, pictures, settings.max_caption_characters)
        counts = select_pairs(it, settings)
        chosen = shuffle_captions(it, settings.noise)
        report = manifest_report(it, counts, settings.noise, chosen)
        table = manifest_rows(it).read_all()
    assert table.column_names == SCHEMA.names
    return table.cast(SCHEMA).to_pylist(), counts, report


def shuffled_captions(
    ids: Sequence[str],
    captions: Sequence[str],
    *,
    fraction: float,
    seed: int,
    placing: Literal["other_text", "permutation"] = "other_text",
) -> list[str]:
    """The captions of pairs that are all of the training split, after the shuffling, in the pairs' order."""
    with database() as it:
        rows = pa.table(
            {"row": pa.array(range(len(ids)), pa.int64()), "id": pa.array(ids, pa.string()),
             "caption": pa.array(captions, pa.string())}
        )  # fmt: skip
        it.register("pairs", rows)
        it.execute(
            "CREATE TABLE kept AS SELECT row, id, true AS is_training, "
            "digest(concat('text', chr(10), $seed, chr(10), caption)) AS text FROM pairs",
            {"seed": seed},
        )
        shuffle_captions(it, NoiseConfig(fraction, seed, placing))
        swaps = dict(it.sql("SELECT row, donor FROM swaps").fetchall())
    return [captions[swaps.get(row, row)] for row in range(len(ids))]
