"""Noisy correspondence on purpose: a seeded share of captions shuffled among their own pairs, in SQL."""

from __future__ import annotations

from duckdb import DuckDBPyConnection

from pipeline_steps.core.schema import NoiseConfig
from pipeline_steps.data.database import scalar

_CHOSEN = """
CREATE TABLE chosen AS
SELECT row, text, digest(concat('place', chr(10), $seed, chr(10), id)) AS own
FROM kept WHERE is_training ORDER BY digest(concat('pair', chr(10), $seed, chr(10), id)) LIMIT $count
"""
# Equal texts side by side, then a rotation by the size of the largest block, carries each caption out of its block.
_PLACED = "CREATE TABLE placed AS SELECT row, text, row_number() OVER (ORDER BY text, own) - 1 AS place FROM chosen"
_SWAPS = """
CREATE TABLE swaps AS
SELECT receiver.row AS row, donor.row AS donor, receiver.text <> donor.text AS is_noisy
FROM placed AS receiver JOIN placed AS donor ON donor.place = (receiver.place + $shift) % $count
"""


# Two orders of the same rows that know nothing of each other.
_PERMUTED = """
CREATE TABLE swaps AS
WITH donors AS (
    SELECT row, text, row_number() OVER (ORDER BY digest(concat('donor', chr(10), own))) AS place FROM chosen
), receivers AS (SELECT row, text, row_number() OVER (ORDER BY own) AS place FROM chosen)
SELECT receivers.row AS row, donors.row AS donor, receivers.text <> donors.text AS is_noisy
FROM receivers JOIN donors ON donors.place = receivers.place
"""


def shuffle_captions(database: DuckDBPyConnection, noise: NoiseConfig) -> int:
    """Make the table `swaps`: row, the row `donor` whose caption it gets, and whether that is another text.

    round(fraction * N) of the N training pairs in `kept`, chosen by seed, change their captions among themselves;
    returns how many. Every chosen pair gets a caption with another text than its own, unless one text is more than
    half of what is chosen (or only one pair is): then as many as possible do. What is chosen and what it gets depends
    on seed and ids alone, by hashes, so another pair more or less moves few others.
    """
    count = round(noise.fraction * scalar(database, "SELECT count(*) FROM kept WHERE is_training"))
    database.execute(_CHOSEN, {"seed": noise.seed, "count": count})
    if noise.placing == "permutation":
        database.execute(_PERMUTED)
        return count
    database.execute(_PLACED)
    shift = scalar(database, "SELECT max(size) FROM (SELECT count(*) AS size FROM placed GROUP BY text)")
    database.execute(_SWAPS, {"shift": shift, "count": max(1, count)})
    return count
