"""Ranks of the right answers in a gallery, chunk by chunk, with ties broken the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from pipeline_steps.evaluation.features.index import Floats, Integers

ENTRIES_AT_ONCE = 2**22
_PAIR_NUMBERS_AT_ONCE = 2**20
_LARGEST_UNSURE_SHARE = 0.02
_UNIT_ROUNDOFF = 2.0**-24


class Ranking(NamedTuple):
    """For Q queries: `rank` (Q,), 1 is best, of the best-placed match; `nearest` (Q,), the gallery row placed first."""

    rank: Integers
    nearest: Integers


def rank_matches(
    query_QD: Floats,
    gallery_GD: Floats,
    query_id_Q: npt.NDArray[Any],
    gallery_id_G: npt.NDArray[Any],
    *,
    title: str = "rank",
    entries_at_once: int = ENTRIES_AT_ONCE,
) -> Ranking:
    """Rank the gallery for each query by inner product; a gallery row matches a query when their ids are equal.

    A rank is 1 + the number of strictly greater similarities + the number of equal ones at a lower gallery row.
    Similarities count as summed in float64 and rounded to float32, so that equal vectors tie whatever the chunking.
    They are computed in float32 and once more in float64 only where float32's error could decide. At most
    `entries_at_once` similarities (or one query's) are in memory. Every query needs a match in the gallery.
    """
    rows = max(1, entries_at_once // len(gallery_GD))
    order_G = np.argsort(gallery_id_G, kind="stable")
    slack_Q = _slack(query_QD, gallery_GD)
    ranks, nearest = [], []
    for start in tqdm(range(0, len(query_QD), rows), desc=title, unit="chunk", mininterval=5.0):
        chunk = slice(start, start + rows)
        matches = _matches(query_id_Q[chunk], gallery_id_G, order_G)
        found = _rank_chunk(query_QD[chunk], gallery_GD, matches, slack_Q[chunk])
        ranks.append(found.rank)
        nearest.append(found.nearest)
    return Ranking(np.concatenate(ranks), np.concatenate(nearest))


class _Pairs(NamedTuple):
    """Pairs of a query and a gallery row, in the order of the queries and of the rows within one."""

    query: Integers
    row: Integers


def _matches(query_id_q: npt.NDArray[Any], gallery_id_G: npt.NDArray[Any], order_G: Integers) -> _Pairs:
    """Each query with all gallery rows of its id; `order_G` sorts the ids, equal ones by row."""
    ids_G = gallery_id_G[order_G]
    first_q, last_q = (np.searchsorted(ids_G, query_id_q, side=side) for side in ("left", "right"))
    count_q = last_q - first_q
    if not count_q.all():
        raise ValueError(f"no gallery row has the id {query_id_q[int(np.argmin(count_q))]}")
    query_p = np.repeat(np.arange(len(query_id_q)), count_q)
    place_p = np.arange(len(query_p)) - np.repeat(np.cumsum(count_q) - count_q, count_q)
    return _Pairs(query_p, order_G[np.repeat(first_q, count_q) + place_p])


def _rank_chunk(query_qD: Floats, gallery_GD: Floats, matches: _Pairs, slack_q: npt.NDArray[np.float64]) -> Ranking:
    """Count what float32 is sure of, look at the rest in float64, or at all of it where that is too much."""
    sim_qG = query_qD @ gallery_GD.T
    best_q, best_sim_q = _best(matches, _exact(query_qD, gallery_GD, matches), len(query_qD))
    low_q1, high_q1 = ((best_sim_q + sign * slack_q).astype(np.float32)[:, None] for sign in (-1, 1))
    top_q1 = (sim_qG.max(axis=1) - 2 * slack_q).astype(np.float32)[:, None]
    above_qG = sim_qG > high_q1
    unsure, leading = _pairs((sim_qG >= low_q1) & ~above_qG), _pairs(sim_qG >= top_q1)
    if len(unsure.row) + len(leading.row) > 2 * len(query_qD) + _LARGEST_UNSURE_SHARE * sim_qG.size:
        return _rank_chunk_in_double(query_qD, gallery_GD, matches)
    sim_p = _exact(query_qD, gallery_GD, unsure)
    own_p, own_row_p = best_sim_q[unsure.query], best_q[unsure.query]
    before_p = (sim_p > own_p) | ((sim_p == own_p) & (unsure.row < own_row_p))
    rank_q = 1 + np.count_nonzero(above_qG, axis=1)
    rank_q += np.bincount(unsure.query[before_p], minlength=len(query_qD))
    nearest_q, _ = _best(leading, _exact(query_qD, gallery_GD, leading), len(query_qD))
    return Ranking(rank_q.astype(np.int64), nearest_q)


def _rank_chunk_in_double(query_qD: Floats, gallery_GD: Floats, matches: _Pairs) -> Ranking:
    """The definition, on the full matrix."""
    sim_qG = (query_qD.astype(np.float64) @ gallery_GD.astype(np.float64).T).astype(np.float32)
    best_q, best_sim_q = _best(matches, sim_qG[matches.query, matches.row], len(query_qD))
    best_q1, best_sim_q1 = best_q[:, None], best_sim_q[:, None]
    before_qG = (sim_qG > best_sim_q1) | ((sim_qG == best_sim_q1) & (np.arange(len(gallery_GD)) < best_q1))
    return Ranking(1 + before_qG.sum(axis=1, dtype=np.int64), sim_qG.argmax(axis=1).astype(np.int64))


def _slack(query_QD: Floats, gallery_GD: Floats) -> npt.NDArray[np.float64]:
    """How far a float32 inner product may be from the float64 one rounded to float32, whatever the order of its sum.

    The bound of Higham 2002, Sec. 3.1, with lengths in place of the sum of products; twice that for roundings here.
    """
    longest, length_Q = (np.linalg.norm(rows, axis=1).astype(np.float64) for rows in (gallery_GD, query_QD))
    slack_Q: npt.NDArray[np.float64] = 2 * (query_QD.shape[1] + 2) * _UNIT_ROUNDOFF * longest.max() * length_Q
    return slack_Q


def _exact(query_qD: Floats, gallery_GD: Floats, pairs: _Pairs) -> Floats:
    """Similarities of pairs (P,), summed in float64 in one order and rounded to float32."""
    parts = [
        np.einsum("pd,pd->p", query_qD[query].astype(np.float64), gallery_GD[row].astype(np.float64))
        for query, row in _blocks(pairs, max(1, _PAIR_NUMBERS_AT_ONCE // query_qD.shape[1]))
    ]
    return np.concatenate(parts).astype(np.float32)


def _blocks(pairs: _Pairs, size: int) -> Iterator[_Pairs]:
    for start in range(0, max(1, len(pairs.row)), size):
        yield _Pairs(pairs.query[start : start + size], pairs.row[start : start + size])


def _best(pairs: _Pairs, sim_p: Floats, queries: int) -> tuple[Integers, Floats]:
    """For each query the row of its greatest similarity, the lowest of equal ones, and that similarity."""
    first_q = np.searchsorted(pairs.query, np.arange(queries))
    best_sim_q = np.maximum.reduceat(sim_p, first_q)
    row_p = np.where(sim_p == best_sim_q[pairs.query], pairs.row, np.iinfo(np.int64).max)
    return np.minimum.reduceat(row_p, first_q), best_sim_q


def _pairs(wanted_qG: npt.NDArray[np.bool_]) -> _Pairs:
    return _Pairs(*np.divmod(np.flatnonzero(wanted_qG), wanted_qG.shape[1]))
