"""Pictures of evaluation that training has seen: equal bytes, or perceptual hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.manifest import training_batches
from pipeline_steps.data.parquet_file import read_parquet, write_parquet
from pipeline_steps.data.perceptual_hash import FLAT
from pipeline_steps.evaluation.datasets.prepared import PreparedSet

EXACT, NEAR = "exact", "near"
_BLOCKS, _BLOCK_BITS = 4, 16
_HASHES = ("sha256", "phash")
_CREATE = """
CREATE TABLE training (id VARCHAR, image UHUGEINT, phash BIGINT);
CREATE TABLE evaluation (dataset VARCHAR, row BIGINT, image UHUGEINT, phash BIGINT);
"""
_EXACT = """
CREATE TABLE exact AS
SELECT dataset, row, min(id) AS train_id, count(*) AS matches FROM evaluation JOIN training USING (image)
GROUP BY dataset, row
"""
# A hash that a thousand pictures share is compared once.
_DISTINCT = f"""
CREATE TABLE seen AS SELECT phash, min(id) AS id, count(*) AS pairs FROM training WHERE phash <> {FLAT} GROUP BY phash;
CREATE TABLE asked AS SELECT DISTINCT phash FROM evaluation ANTI JOIN exact USING (dataset, row) WHERE phash <> {FLAT};
CREATE TABLE found (phash BIGINT, distance BIGINT, train_id VARCHAR, matches BIGINT);
"""  # noqa: S608 - a number from this package
_WRITTEN = f"""
SELECT dataset, row, '{EXACT}' AS kind, train_id, 0 AS distance, matches FROM exact
UNION ALL
SELECT dataset, row, '{NEAR}', nearest.train_id, distance, nearest.matches
FROM evaluation ANTI JOIN exact USING (dataset, row)
JOIN (
    SELECT phash, min(distance) AS distance, arg_min(train_id, (distance, train_id)) AS train_id,
        sum(matches)::BIGINT AS matches
    FROM found GROUP BY phash
) AS nearest USING (phash)
ORDER BY dataset, row
"""  # noqa: S608 - words from above


def create_tables(database: DuckDBPyConnection) -> None:
    """The empty tables: pictures of `training` by id and of `evaluation` by data set and row.

    `image` is the first 128 bits of the sha256 of a picture's bytes, `phash` its perceptual hash.
    """
    database.execute(_CREATE)


def take_training(database: DuckDBPyConnection, pairs: Path) -> None:
    """Fill the table `training` with the manifest's training split: what training may read, whatever part it does.

    The held-out split is left out: no training sees it. Raises PipelineError for a manifest without hashes.
    """
    for batch in training_batches(pairs, ["id", *_HASHES]):
        _take(database, "training", pa.Table.from_batches([batch]))


def take_evaluation(database: DuckDBPyConnection, sets: Iterable[PreparedSet]) -> None:
    """Fill the table `evaluation` with the test splits of the sets that are there.

    Raises PipelineError when test pictures have no perceptual hash.
    """
    for prepared in sets:
        if prepared.hole is None:
            split = prepared.splits["test"]
            if split.table["phash"].null_count:
                raise PipelineError(
                    f"{split.folder}: {split.table['phash'].null_count} of {split.n} test pictures have no perceptual "
                    "hash; run the stage prepare_dataset again"
                )
            columns = {"dataset": pa.array([prepared.name] * split.n), "row": pa.array(range(split.n), pa.int64())}
            _take(database, "evaluation", pa.table(columns | {name: split.table[name] for name in _HASHES}))


def find_overlaps(database: DuckDBPyConnection, *, max_distance_bits: int) -> None:
    """Make the tables `exact` (by picture of evaluation) and `found` (by its hash, `max_distance_bits` 0 to 15).

    Two numbers that differ in at most d bits differ in at most floor(d / 4) bits in one of four blocks of 16 bits
    (pigeonhole principle; Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing"). For each
    block, the asked hashes' blocks with up to so many bits flipped are joined to those of the seen ones, and what is
    joined is compared whole. A pair counts in the first block that finds it. Nothing is kept of it but the nearest
    picture and the number of matches, so that memory does not grow with the matches.
    """
    database.execute(_EXACT)
    database.execute(_DISTINCT)
    flipped = max_distance_bits // _BLOCKS
    flips = [mask for mask in range(2**_BLOCK_BITS) if mask.bit_count() <= flipped]
    database.register("given", pa.table({"mask": pa.array(flips, pa.int64())}))
    database.execute("CREATE TABLE flips AS SELECT mask FROM given")
    database.unregister("given")
    for block in range(_BLOCKS):
        earlier = [f"bit_count({_block(other, 'xor(asked.phash, seen.phash)')}) > {flipped}" for other in range(block)]
        database.execute(
            f"""
            INSERT INTO found
            SELECT phash, min(distance), arg_min(id, (distance, id)), sum(pairs) FROM (
                SELECT asked.phash, seen.id, seen.pairs, bit_count(xor(asked.phash, seen.phash)) AS distance
                FROM (SELECT phash, xor({_block(block, "phash")}, mask) AS probe FROM asked, flips) AS asked
                JOIN seen ON {_block(block, "seen.phash")} = asked.probe
                WHERE {" AND ".join([f"distance <= {max_distance_bits}", *earlier])}
            ) GROUP BY phash
            """  # noqa: S608 - numbers and names from here
        )


def write_overlaps(database: DuckDBPyConnection, path: Path) -> None:
    """Write a row per picture of evaluation that training has seen, sorted: dataset, row, kind, train_id, distance.

    `kind` is exact where a training picture has the same bytes, else near; `train_id` the nearest pair (the smallest
    id of several), `distance` in bits of the hashes, `matches` how many training pairs there are like it.
    """
    write_parquet(path, database.sql(_WRITTEN).to_arrow_table())


def overlap_report(
    database: DuckDBPyConnection, overlaps: Path, sets: Sequence[PreparedSet], *, max_distance_bits: int
) -> dict[str, Any]:
    """By set: `n` pictures, how many are `exact` and `near`, and `degenerate`: flat ones, which near says nothing of.

    Beside them how many `training_pairs` were compared, and how many of those are degenerate. A set that could not be
    had has its `hole` alone.
    """
    form = {"dataset": pa.string(), "kind": pa.string()}
    columns = read_parquet(overlaps, form, "Run check_overlap again.").to_pydict()
    kinds = list(zip(columns["dataset"], columns["kind"], strict=True))
    is_flat = f"phash = {FLAT}"
    flat = dict(database.table("evaluation").filter(is_flat).aggregate("dataset, count(*)").fetchall())
    training = {
        "max_distance_bits": max_distance_bits,
        "training_pairs": len(database.table("training")),
        "training_degenerate": len(database.table("training").filter(is_flat)),
    }
    return {
        prepared.name: {"hole": prepared.hole}
        if prepared.hole is not None
        else {
            "n": prepared.splits["test"].n,
            EXACT: kinds.count((prepared.name, EXACT)),
            NEAR: kinds.count((prepared.name, NEAR)),
            "degenerate": flat.get(prepared.name, 0),
            **training,
        }
        for prepared in sets
    }


def _take(database: DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    known = rows.append_column("image", rows["sha256"]).drop_columns(["sha256"])
    database.register("given", known)
    database.execute(f"INSERT INTO {table} BY NAME SELECT * REPLACE (digest(image) AS image) FROM given")  # noqa: S608
    database.unregister("given")


def _block(number: int, value: str) -> str:
    """SQL of one of the blocks of a number's bits."""
    return f"(({value} >> {number * _BLOCK_BITS}) & {2**_BLOCK_BITS - 1})"
