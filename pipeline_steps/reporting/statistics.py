"""Bootstrap intervals over test pictures, paired between methods, and the outcomes that they resample."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import RETRIEVAL

Array = npt.NDArray[Any]
Statistic = Callable[..., float]
ENTRIES_AT_ONCE = 2**21


class Interval(NamedTuple):
    """A percentile bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: number of resamples, coverage in (0, 1), seed."""

    samples: int
    confidence: float
    seed: int

    def interval(self, blocks: Sequence[tuple[Array, ...]], statistic: Statistic) -> Interval:
        """The interval of the mean over data sets of `statistic(*arrays)`.

        A block is one data set: arrays (n,) over the same n >= 2 pictures. Pictures are drawn with return, the same
        ones in every array, and each data set on its own.
        """
        total = np.zeros(self.samples)
        for number, arrays in enumerate(blocks):
            if len(arrays[0]) < 2:
                raise PipelineError("a bootstrap interval needs at least two test pictures; use a larger test split")
            found = stats.bootstrap(
                arrays, statistic, n_resamples=self.samples, confidence_level=self.confidence, method="percentile",
                paired=True, vectorized=False, batch=max(1, ENTRIES_AT_ONCE // len(arrays[0])),
                rng=np.random.default_rng([self.seed, number]),
            )  # fmt: skip
            total += found.bootstrap_distribution / len(blocks)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(total, [tail, 1 - tail])
        return Interval(float(low), float(high))

    def of_score(self, grid: Grid, stage: str, method: str, measure: str, datasets: Sequence[str]) -> Interval:
        """The interval of one method's score, mean over data sets and seeds."""
        blocks = [unit_outcomes(grid, stage, method, dataset, measure) for dataset in datasets]
        return self.interval(blocks, statistic_of(measure))

    def of_difference(
        self, grid: Grid, stage: str, methods: tuple[str, str], measure: str, datasets: Sequence[str]
    ) -> Interval:
        """The interval of the first method's score minus the second's, on the same pictures."""
        statistic = statistic_of(measure)
        first, second = ([unit_outcomes(grid, stage, m, dataset, measure) for dataset in datasets] for m in methods)

        def difference(*arrays: Array) -> float:
            half = len(arrays) // 2
            return statistic(*arrays[:half]) - statistic(*arrays[half:])

        return self.interval([(*one, *other) for one, other in zip(first, second, strict=True)], difference)


def unit_outcomes(grid: Grid, stage: str, method: str, dataset: str, measure: str) -> tuple[Array, ...]:
    """What one method did on each test picture, mean over seeds, as the arrays (n,) that `statistic_of` takes."""
    frames = grid.outcomes(stage, method, dataset)
    if stage == RETRIEVAL:
        ks = _recall_at(grid.measures(stage, dataset), measure)
        per_seed = [_recall_units(frame, measure, ks) for frame in frames]
    else:
        per_seed = [_accuracy_units(frame, measure) for frame in frames]
    return tuple(np.mean(arrays, axis=0) for arrays in zip(*per_seed, strict=True))


def statistic_of(measure: str) -> Statistic:
    """The function that turns `unit_outcomes` into the measure's score."""
    if measure == "mean_recall":
        return _mean_recall
    if measure == "mean_per_class":
        return _mean_over_classes
    if "_recall@" in measure:
        return _share
    return _mean


def _mean(hit: Array) -> float:
    return float(hit.mean())


def _share(hits: Array, queries: Array) -> float:
    return float(hits.sum() / queries.sum())


def _mean_recall(to_text: Array, to_image: Array, captions: Array) -> float:
    return (_mean(to_text) + _share(to_image, captions)) / 2


def _mean_over_classes(hit: Array, label: Array) -> float:
    classes = label.astype(np.int64)
    counts = np.bincount(classes)
    hits = np.bincount(classes, weights=hit)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def _accuracy_units(frame: pd.DataFrame, measure: str) -> tuple[Array, ...]:
    ordered = frame.sort_values("row")
    top = re.fullmatch(r"top(\d+)", measure)
    hit = ordered["rank"] <= int(top[1]) if top else ordered["prediction"] == ordered["label"]
    values = hit.to_numpy(dtype=float)
    return (values, ordered["label"].to_numpy()) if measure == "mean_per_class" else (values,)


def _recall_units(frame: pd.DataFrame, measure: str, ks: Sequence[int]) -> tuple[Array, ...]:
    found = {}
    for direction, of_direction in frame.groupby("direction"):
        rank = of_direction["rank"].to_numpy()
        hit = np.mean([rank <= k for k in ks], axis=0)
        by_image = pd.Series(hit).groupby(of_direction["image"].to_numpy())
        found[direction] = by_image.sum().to_numpy(), by_image.size().to_numpy(dtype=float)
    if measure == "mean_recall":
        return found["image_to_text"][0], *found["text_to_image"]
    return found[measure.split("_recall@")[0]]


def _recall_at(measures: Sequence[str], measure: str) -> list[int]:
    names = measures if measure == "mean_recall" else [measure]
    return sorted({int(name.split("@")[1]) for name in names if "@" in name})
