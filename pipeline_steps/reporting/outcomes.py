"""What each method did on each test picture, as bootstrap distributions of every measure of a data set.

The same pictures are drawn for all methods, so that differences between methods are paired. Pictures are drawn plainly
for shares of all pictures; within their class for the mean per class, whose classes are part of the question: a plain
draw loses small classes and so changes what is measured (with c pictures in a class its own share of the variance is
(c - 1) / c of the true one). Retrieval draws pictures with all their captions, in folds each fold on its own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import OUTCOME_FILES, Grid
from pipeline_steps.reporting.names import RETRIEVAL
from pipeline_steps.reporting.resampling import Floats, resampled_sums

PER_CLASS, MEAN_RECALL = "mean_per_class", "mean_recall"
DIRECTIONS = ("image_to_text", "text_to_image")
_LARGEST_MISMATCH = 1e-6


class Distribution(NamedTuple):
    """One measure of one data set for all M methods of a grid: scores (M,) and their resamples (samples, M)."""

    scores_M: Floats
    drawn_SM: Floats


def distributions(grid: Grid, stage: str, dataset: str, *, samples: int, seed: int) -> dict[str, Distribution]:
    """The distribution of every measure of a data set, means over seeds of training, fractions.

    Draws depend on `seed` and the names alone, not on which other sets there are. Raises PipelineError where the
    outcomes do not give the scores of scores.json, and for a measure that outcomes cannot give.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{stage}/{dataset}".encode())])
    found = (_retrieval if stage == RETRIEVAL else _classification)(grid, stage, dataset, samples, rng)
    for measure, distribution in found.items():
        for method, score in zip(grid.methods, distribution.scores_M, strict=True):
            written = grid.values(stage, method, dataset, measure).mean()
            if abs(written - score) > _LARGEST_MISMATCH:
                raise PipelineError(
                    f"{stage}/{method}: scores.json has {dataset}/{measure} = {written:.6f}, and its "
                    f"{OUTCOME_FILES[stage]} gives {score:.6f}. Run that evaluation again."
                )
    return found


def classification_score(frame: pd.DataFrame, measure: str) -> float:
    """A measure of rows (label, prediction, and for top-k the true class's rank), a fraction; NaN of no rows."""
    hit = _hits(frame, measure)
    if measure != PER_CLASS:
        return float(hit.mean()) if len(hit) else float("nan")
    return float(pd.Series(hit).groupby(frame["label"].to_numpy()).mean().mean())


def recall_scores(frame: pd.DataFrame, ks: Sequence[int]) -> dict[str, float]:
    """All recalls and their mean of rows (direction, rank) of one gallery, fractions; NaN of no rows."""
    found: dict[str, float] = {}
    for direction in DIRECTIONS:
        rank = frame.loc[frame["direction"] == direction, "rank"]
        found |= {f"{direction}_recall@{k}": float((rank <= k).mean()) for k in ks}
    return found | {MEAN_RECALL: float(np.mean(list(found.values())))}


def recall_at(measures: Sequence[str]) -> list[int]:
    """The K of the recalls among the measures, ascending."""
    return sorted({int(name.split("@")[1]) for name in measures if "@" in name})


def _hits(frame: pd.DataFrame, measure: str) -> npt.NDArray[np.bool_]:
    top = re.fullmatch(r"top(\d+)", measure)
    if top:
        return np.asarray(frame["rank"] <= int(top[1]))
    if measure not in ("accuracy", PER_CLASS):
        raise PipelineError(f"no interval is known for the measure {measure!r}; reporting/outcomes.py has those known")
    return np.asarray(frame["prediction"] == frame["label"])


def _classification(
    grid: Grid, stage: str, dataset: str, samples: int, rng: np.random.Generator
) -> dict[str, Distribution]:
    measures, methods = grid.measures(stage, dataset), len(grid.methods)
    label_N = grid.outcomes(stage, grid.methods[0], dataset)[0]["label"].to_numpy()
    plain = [measure for measure in measures if measure != PER_CLASS]
    found: dict[str, Distribution] = {}
    if plain:
        columns = [_mean_hits(grid, stage, method, dataset, measure) for measure in plain for method in grid.methods]
        share_NK = np.stack(columns, axis=1) / len(label_N)
        drawn = resampled_sums(share_NK, samples=samples, rng=rng)
        for number, measure in enumerate(plain):
            mine = slice(number * methods, (number + 1) * methods)
            found[measure] = Distribution(share_NK[:, mine].sum(axis=0), drawn[:, mine])
    if PER_CLASS in measures:
        _, place_N, size_C = np.unique(label_N, return_inverse=True, return_counts=True)
        weight_N = 1 / (size_C[place_N] * len(size_C))
        share_NK = weight_N[:, None] * np.stack(
            [_mean_hits(grid, stage, method, dataset, PER_CLASS) for method in grid.methods], axis=1
        )
        drawn = resampled_sums(share_NK, samples=samples, rng=rng, strata_N=label_N)
        found[PER_CLASS] = Distribution(share_NK.sum(axis=0), drawn)
    return {measure: found[measure] for measure in measures}


def _mean_hits(grid: Grid, stage: str, method: str, dataset: str, measure: str) -> Floats:
    hits = [_hits(frame, measure) for frame in grid.outcomes(stage, method, dataset)]
    return np.asarray(np.mean(hits, axis=0, dtype=np.float64))


def _retrieval(grid: Grid, stage: str, dataset: str, samples: int, rng: np.random.Generator) -> dict[str, Distribution]:
    size, ks = int(grid.entries(stage, dataset)["n_images"]), recall_at(grid.measures(stage, dataset))
    folds = range(grid.folds(stage, dataset))
    parts = [_recalls_of_fold(grid, dataset, range(k * size, (k + 1) * size), ks, samples, rng) for k in folds]
    found = {
        name: Distribution(
            np.mean([part[name].scores_M for part in parts], axis=0),
            np.mean([part[name].drawn_SM for part in parts], axis=0),
        )
        for name in parts[0]
    }
    found[MEAN_RECALL] = Distribution(
        np.mean([one.scores_M for one in found.values()], axis=0),
        np.mean([one.drawn_SM for one in found.values()], axis=0),
    )
    return {measure: found[measure] for measure in grid.measures(stage, dataset)}


def _recalls_of_fold(
    grid: Grid, dataset: str, fold: range, ks: Sequence[int], samples: int, rng: np.random.Generator
) -> Mapping[str, Distribution]:
    """Recalls of one gallery: per direction, hits and queries summed over the pictures drawn, and their quotient."""
    names = [f"{direction}_recall@{k}" for direction in DIRECTIONS for k in ks]
    frames = [_of_fold(frame, fold) for method in grid.methods for frame in grid.outcomes(RETRIEVAL, method, dataset)]
    images = np.unique(frames[0]["image"])
    asked_IK = np.stack([_per_image(frames[0], images, name, None) for name in names], axis=1)
    seeds = len(grid.seeds)
    hits = [
        np.mean([_per_image(frame, images, name, name) for frame in frames[start : start + seeds]], axis=0)
        for name in names
        for start in range(0, len(frames), seeds)
    ]
    columns_IK = np.concatenate([np.stack(hits, axis=1), asked_IK], axis=1)
    drawn, whole = resampled_sums(columns_IK, samples=samples, rng=rng), columns_IK.sum(axis=0)
    found = {}
    for number, name in enumerate(names):
        mine, asked = slice(number * len(grid.methods), (number + 1) * len(grid.methods)), len(hits) + number
        found[name] = Distribution(whole[mine] / whole[asked], drawn[:, mine] / drawn[:, asked, None])
    return found


def _of_fold(frame: pd.DataFrame, fold: range) -> pd.DataFrame:
    return frame[frame["image"].between(fold.start, fold.stop - 1)]


def _per_image(frame: pd.DataFrame, images: npt.NDArray[np.int64], name: str, hits: str | None) -> Floats:
    """For each picture: how many of its queries in a direction hit, or with `hits` None how many there are."""
    direction, k = name.split("_recall@")
    rows = frame[frame["direction"] == direction]
    place = np.searchsorted(images, rows["image"].to_numpy())
    weight = None if hits is None else (rows["rank"] <= int(k)).to_numpy(dtype=float)
    return np.bincount(place, weights=weight, minlength=len(images)).astype(np.float64)
