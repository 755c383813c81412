"""From rows to pairs: which are kept under what caption and id, and in which split. Tables in, tables out, in SQL."""

from __future__ import annotations

import re

from duckdb import DuckDBPyConnection

from pipeline_steps.core.schema import BuildManifestConfig

DROPPED = ("bad_picture", "empty_caption", "long_caption", "duplicate_pair", "duplicate_image")

# `fitted` is the caption cut to size, null where it is the caption itself. `text` is the rank of a caption's text in
# the shuffling of captions; equal texts have equal ranks.
_CHECKED = """
CREATE TABLE checked AS
SELECT row, sha256, width, height, phash, fitted IS NOT NULL AS truncated,
    CASE WHEN cause IS NOT NULL THEN 'bad_picture'
         WHEN is_empty AND $drop_empty THEN 'empty_caption'
         WHEN truncated AND $drop_long THEN 'long_caption' END AS reason,
    short_digest(sha256 || chr(10) || caption) AS identity,
    digest(concat('text', chr(10), $seed, chr(10), coalesce(fitted, caption))) AS text,
    digest(sha256) AS image,
    short_digest('validation' || chr(10) || sha256)::DOUBLE / 18446744073709551616 >= $validation AS is_training
FROM rows JOIN pictures
    ON rows.image_path = pictures.image_path AND rows.image_offset IS NOT DISTINCT FROM pictures.image_offset
"""
# Where pictures are dropped the first row of each stays; a later one is a duplicate pair when its text is that row's.
_DECIDED = """
CREATE TABLE decided AS
SELECT row, identity, text, is_training, truncated,
    CASE WHEN NOT $drop_images AND $drop_pairs AND pair_place > 1 THEN 'duplicate_pair'
         WHEN $drop_images AND $drop_pairs AND image_place > 1 AND text = first_text THEN 'duplicate_pair'
         WHEN $drop_images AND image_place > 1 THEN 'duplicate_image' END AS reason
FROM (
    SELECT row, identity, text, is_training, truncated,
        row_number() OVER (PARTITION BY image, text ORDER BY row) AS pair_place,
        row_number() OVER (PARTITION BY image ORDER BY row) AS image_place,
        first_value(text) OVER (PARTITION BY image ORDER BY row) AS first_text
    FROM checked WHERE reason IS NULL
)
"""
_KEPT = """
CREATE TABLE kept AS
SELECT row, text, is_training, identity,
    CASE WHEN copy > 1 THEN '-' || copy ELSE '' END AS suffix,
    lower(lpad(to_hex(identity), 16, '0')) || suffix AS id
FROM (
    SELECT row, text, is_training, identity, row_number() OVER (PARTITION BY identity ORDER BY row) AS copy
    FROM decided WHERE reason IS NULL
)
"""


def select_pairs(database: DuckDBPyConnection, settings: BuildManifestConfig) -> dict[str, int]:
    """Make the table `kept` out of `rows` and `pictures`; return how many went for which reason (DROPPED) or were
    `truncated`.

    An id is 16 hex digits of the sha256 of the picture's and the whole caption. Of duplicates the first row stays;
    where duplicates are kept, the n-th pair of one id gets the id "<id>-<n>". The split follows a hash of the
    picture's content alone, so all its pairs are, in every run, on the same side.
    """
    database.execute(
        _CHECKED,
        {
            "drop_empty": settings.drop_empty_captions,
            "drop_long": settings.long_captions == "drop",
            "seed": settings.noise.seed,
            "validation": settings.validation_fraction,
        },
    )
    flags = {"drop_pairs": settings.drop_duplicate_pairs, "drop_images": settings.drop_duplicate_images}
    database.execute(_DECIDED, flags)
    database.execute(_KEPT)
    counted = database.sql(
        "SELECT reason, count(*) FROM (SELECT reason FROM checked WHERE reason IS NOT NULL UNION ALL "
        "SELECT coalesce(reason, 'truncated') FROM decided WHERE reason IS NOT NULL OR truncated) GROUP BY reason"
    ).fetchall()
    return dict.fromkeys((*DROPPED, "truncated"), 0) | dict(counted)


def fitted_caption(caption: str, max_characters: int) -> str:
    """The caption itself when it is short enough, else its start, cut between words where there is a place."""
    if len(caption) <= max_characters:
        return caption
    whole = caption.strip()
    if len(whole) <= max_characters:
        return whole
    head = whole[:max_characters]
    if not whole[max_characters].isspace():
        head = re.sub(r"\s+\S*$", "", head)
    return head.rstrip()
