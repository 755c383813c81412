"""Ranks of the right answers in a gallery, chunk by chunk, with ties broken the same way everywhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from pipeline_steps.evaluation.feature_file import Floats, Integers

ENTRIES_AT_ONCE = 2**22


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
    Similarities are summed in float64 and compared in float32, so that equal vectors tie whatever the chunking. At
    most `entries_at_once` similarities (or one query's) are in memory. Every query needs a match in the gallery.
    """
    gallery_DG = gallery_GD.astype(np.float64).T
    column_G = np.arange(gallery_DG.shape[1])
    rows = max(1, entries_at_once // len(column_G))
    ranks, nearest = [], []
    for start in tqdm(range(0, len(query_QD), rows), desc=title, unit="chunk", mininterval=5.0):
        chunk = slice(start, start + rows)
        sim_qG = (query_QD[chunk].astype(np.float64) @ gallery_DG).astype(np.float32)
        match_qG = query_id_Q[chunk, None] == gallery_id_G[None, :]
        best_q1 = np.where(match_qG, sim_qG, -np.inf).argmax(axis=1)[:, None]
        best_sim_q1 = np.take_along_axis(sim_qG, best_q1, axis=1)
        before_qG = (sim_qG > best_sim_q1) | ((sim_qG == best_sim_q1) & (column_G < best_q1))
        ranks.append(1 + before_qG.sum(axis=1))
        nearest.append(sim_qG.argmax(axis=1))
    return Ranking(np.concatenate(ranks).astype(np.int64), np.concatenate(nearest).astype(np.int64))
