"""NPC's memory bank: which pairs are clean, and for every pair the clean ones whose image and caption are nearest.

Source: Zhang, Li, Ye, "Negative Pre-aware for Noisy Cross-Modal Matching" (AAAI 2024, arXiv 2312.05777) and its code,
get_memorybank.py of ZhangXu0963/NPC at 823d781.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.methods.contrastive import contrastive_loss_N

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
_EXACT_UP_TO = 2**18  # clean pictures or captions that `auto` searches exactly
_CHECKED = 1000


class Nearest(NamedTuple):
    """`row_P`: for each pair the row of its neighbour (P,). `agreement`: how often a search that is not exact finds
    what an exact one finds, of up to 1,000 pairs; 1 for an exact one.
    """

    row_P: Integers
    agreement: float


def pair_losses(
    image_PD: Floats, text_PD: Floats, *, logit_scale: float, batch_size: int, seed: int
) -> npt.NDArray[np.float64]:
    """The contrastive loss of every pair within a random batch, (P,): each pair is in one batch.

    Embeddings are l2-normalised. P // batch_size batches (at least one) of all but equal size, so none is smaller.
    """
    order = np.random.default_rng(seed).permutation(len(image_PD))
    losses = np.empty(len(order))
    for rows in np.array_split(order, max(1, len(order) // batch_size)):
        sim_NN = torch.from_numpy(np.ascontiguousarray(image_PD[rows] @ text_PD[rows].T))
        losses[rows] = contrastive_loss_N(sim_NN, torch.tensor(logit_scale, dtype=sim_NN.dtype)).numpy()
    return losses


def nearest_clean(
    feature_UD: Floats,
    own_P: Integers,
    clean_probability_P: Floats,
    is_clean_P: npt.NDArray[np.bool_],
    *,
    exclude_self: bool,
    index: str,
) -> Nearest:
    """For every pair the clean pair whose picture (or caption) has the highest cosine with its own.

    `feature_UD` are the l2-normalised embeddings of the U different pictures, float32, and `own_P` says which of them a
    pair has. Of several clean pairs with the nearest picture the one with the highest probability stands for it; with
    `exclude_self` a pair's own picture is no neighbour. `index`: auto, or a name of faiss's index factory.
    Raises PipelineError when there are too few clean ones, and for a name that faiss does not know.
    """  # fmt: skip
    clean = np.flatnonzero(is_clean_P)
    best_last = clean[np.argsort(clean_probability_P[clean], kind="stable")]
    row_U = np.full(len(feature_UD), -1, dtype=np.int64)
    row_U[own_P[best_last]] = best_last
    known = np.flatnonzero(row_U >= 0)
    if len(known) < 1 + exclude_self:
        raise PipelineError(
            f"{len(known)} different pictures or captions are in clean pairs, and a bank needs {1 + exclude_self}; "
            "lower build_memory_bank.clean_threshold, or train the reference longer"
        )
    name = ("Flat" if len(known) <= _EXACT_UP_TO else "HNSW32") if index == "auto" else index
    every = np.arange(len(feature_UD))
    found_U = _search(feature_UD, known, every, name, exclude_self)
    missed = np.flatnonzero(found_U < 0)
    if len(missed):
        found_U[missed] = _search(feature_UD, known, missed, "Flat", exclude_self)
    agreement = 1.0
    if name != "Flat":
        sample = np.random.default_rng(0).permutation(len(feature_UD))[:_CHECKED]
        agreement = float(np.mean(_search(feature_UD, known, sample, "Flat", exclude_self) == found_U[sample]))
    return Nearest(row_U[found_U[own_P]], agreement)


def _search(feature_UD: Floats, known: Integers, asked: Integers, name: str, exclude_self: bool) -> Integers:
    """For each of `asked` the nearest of `known` (or of the others), -1 where an approximate search finds none."""
    try:
        index = faiss.index_factory(feature_UD.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise PipelineError(
            f"build_memory_bank.index = {name!r} is no index of faiss ({str(error).splitlines()[0]}); allowed: auto, "
            "Flat, HNSW32, or another name of its index factory"
        ) from error
    candidates = np.ascontiguousarray(feature_UD[known], dtype=np.float32)
    if not index.is_trained:
        index.train(candidates)
    index.add(candidates)
    _, places = index.search(np.ascontiguousarray(feature_UD[asked], dtype=np.float32), 1 + exclude_self)
    found = np.where(places >= 0, known[places], -1)
    if not exclude_self:
        nearest: Integers = found[:, 0]
        return nearest
    others: Integers = np.where(found[:, 0] == asked, found[:, 1], found[:, 0])
    return others
