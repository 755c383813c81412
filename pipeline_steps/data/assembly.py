"""Out of the tables: the manifest's rows, sorted by id, and the report of what was kept, dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from pipeline_steps.core.schema import BuildManifestConfig, NoiseConfig
from pipeline_steps.data.database import scalar
from pipeline_steps.data.image_check import BAD_CAUSES
from pipeline_steps.data.manifest import ROW_GROUP_ROWS, TRAIN, VALIDATION
from pipeline_steps.data.selection import DROPPED
from pipeline_steps.data.tar_shards import BROKEN_CAUSES

_NAMED = 20
_FIRST_NAMED = 5
_WHOLE_SHARDS = ("truncated_shard", "damaged_shard")  # what ends a shard, with all samples that came after
# Of each shard that ends early: what a shard of these usually has, without what was found in it, and at least one.
_LOST = f"""
WITH cut AS (SELECT DISTINCT shard FROM broken WHERE cause IN {_WHOLE_SHARDS}),
    found AS (SELECT image_path AS shard, count(*) AS samples FROM pictures GROUP BY image_path),
    usual AS (
        SELECT coalesce(median(samples) FILTER (shard NOT IN (FROM cut)), max(samples), 1) AS samples FROM found
    )
SELECT coalesce(sum(greatest(1, usual.samples - coalesce(found.samples, 0)))::BIGINT, 0)
FROM cut CROSS JOIN usual LEFT JOIN found USING (shard)
"""  # noqa: S608 - the causes above
_ROWS = f"""
SELECT kept.id, own.image_path, own.image_offset, own.image_bytes, checked.sha256, checked.width, checked.height,
    checked.phash,
    coalesce(donor.fitted, donor.caption) AS caption,
    CASE WHEN kept.is_training THEN '{TRAIN}' ELSE '{VALIDATION}' END AS split,
    coalesce(swaps.is_noisy, false) AS is_noisy,
    coalesce(own.fitted, own.caption) AS clean_caption
FROM kept
JOIN checked ON checked.row = kept.row
JOIN rows AS own ON own.row = kept.row
LEFT JOIN swaps ON swaps.row = kept.row
JOIN rows AS donor ON donor.row = coalesce(swaps.donor, kept.row)
ORDER BY kept.identity, kept.suffix
"""  # noqa: S608 - the names of the splits


def manifest_rows(database: DuckDBPyConnection) -> pa.RecordBatchReader:
    """The rows of the manifest's SCHEMA, sorted by id, part by part, out of `kept`, `swaps` and what was taken in."""
    return database.sql(_ROWS).to_arrow_reader(ROW_GROUP_ROWS)


def manifest_report(
    database: DuckDBPyConnection, counts: Mapping[str, int], noise: NoiseConfig, chosen: int
) -> dict[str, Any]:
    """All counts of a manifest as JSON values.

    Bad pictures, and what is broken in tar shards, are counted by cause and the first twenty named; of a shard that
    ends early, `lost_with_shards` says about how many samples came after. `counts` are those of `select_pairs`,
    `chosen` that of `shuffle_captions`.
    """
    splits = _counted(database, f"SELECT if(is_training, '{TRAIN}', '{VALIDATION}') FROM kept")  # noqa: S608
    bad = _counted(database, "SELECT cause FROM pictures WHERE cause IS NOT NULL")
    broken = _counted(database, "SELECT cause FROM broken")
    return {
        "rows": scalar(database, "SELECT count(*) FROM rows"),
        "pictures": scalar(database, "SELECT count(*) FROM pictures"),
        "bad_pictures": {cause: bad.get(cause, 0) for cause in BAD_CAUSES},
        "bad_pictures_named": _named(
            database, "SELECT image_path, image_offset, cause, message FROM pictures WHERE cause IS NOT NULL"
        ),
        "broken_in_shards": {cause: broken.get(cause, 0) for cause in BROKEN_CAUSES},
        "lost_with_shards": scalar(database, _LOST),
        "broken_in_shards_named": _named(database, "SELECT shard, key, cause, message FROM broken"),
        "dropped": {reason: counts[reason] for reason in DROPPED},
        "truncated_captions": counts["truncated"],
        "pairs": sum(splits.values()),
        "splits": {split: splits.get(split, 0) for split in (TRAIN, VALIDATION)},
        "noise": {
            "fraction": noise.fraction,
            "chosen_pairs": chosen,
            "noisy_pairs": scalar(database, "SELECT count(*) FROM swaps WHERE is_noisy"),
        },
    }


def refusal(report: Mapping[str, Any], settings: BuildManifestConfig) -> str | None:
    """Why a manifest with this report must not be used, with the remedy; None when it may."""
    bad, pictures = sum(report["bad_pictures"].values()), report["pictures"]
    broken = sum(count for cause, count in report["broken_in_shards"].items() if cause not in _WHOLE_SHARDS)
    broken += report["lost_with_shards"]
    if broken > settings.max_bad_fraction * (pictures + broken):
        first = "; ".join(
            f"{one['shard']} {one['key']} ({one['cause']}: {one['message']})"
            for one in report["broken_in_shards_named"][:_FIRST_NAMED]
        )
        only_names = report["broken_in_shards"].get("other_endings") == broken
        remedy = "Rename their members to KEY.jpg and KEY.txt" if only_names else "Fetch these shards again"
        lost = f", with about {report['lost_with_shards']} samples lost" if report["lost_with_shards"] else ""
        return (
            f"{broken} samples of shards are broken ({_listed(report['broken_in_shards'])}{lost}) beside {pictures} "
            f"whole pictures, which is more than build_manifest.max_bad_fraction = {settings.max_bad_fraction}. The "
            f"first: {first}. {remedy}, or raise max_bad_fraction."
        )
    if bad > settings.max_bad_fraction * pictures:
        first = "; ".join(
            f"{one['image_path']} ({one['cause']}: {one['message']})"
            for one in report["bad_pictures_named"][:_FIRST_NAMED]
        )
        return (
            f"{bad} of {pictures} pictures cannot be used ({_listed(report['bad_pictures'])}), which is more than "
            f"build_manifest.max_bad_fraction = {settings.max_bad_fraction}. The first: {first}. Mend or remove these "
            "rows, or raise max_bad_fraction."
        )
    if report["splits"][TRAIN] == 0 or report["splits"][VALIDATION] < 2:
        cut = _listed(report["broken_in_shards"])
        return (
            f"of {report['rows']} rows {report['splits'][TRAIN]} are left to train on and "
            f"{report['splits'][VALIDATION]} in the validation split (at least 1 and 2 are needed): dropped "
            f"{_listed(report['dropped']) or 'none'}{f'; broken in shards: {cut}' if cut else ''}. Loosen these "
            "filters or change validation_fraction in build_manifest, or give more rows."
        )
    return None


def _counted(database: DuckDBPyConnection, query: str) -> dict[str, int]:
    return dict(database.sql(f"SELECT found, count(*) FROM ({query}) AS t(found) GROUP BY found").fetchall())  # noqa: S608


def _named(database: DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    rows = database.sql(f"{query} ORDER BY ALL LIMIT {_NAMED}").to_arrow_table().to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)
