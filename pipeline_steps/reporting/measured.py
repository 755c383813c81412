"""Scores and differences with their intervals: over test pictures (bootstrap) and over seeds of training (t)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit
from tqdm.auto import tqdm

from pipeline_steps.reporting.grid import OUTCOME_FILES, Grid
from pipeline_steps.reporting.outcomes import Distribution, distributions

SCORE_COLUMNS = ("mean", "std", "low", "high", "seed_low", "seed_high", "chance", "above_chance")


class Interval(NamedTuple):
    """An interval of fractions, or of differences of fractions."""

    low: float
    high: float


class Place(NamedTuple):
    """One measure of one data set."""

    stage: str
    dataset: str
    measure: str


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: number of resamples, coverage in (0, 1), seed."""

    samples: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Difference:
    """A method's score minus another's, a fraction, with its paired interval over test pictures.

    `over_seeds` is the t-interval of the same seeds' differences, None with one seed.
    """

    estimate: float
    interval: Interval
    over_seeds: Interval | None = None

    @property
    def verdict(self) -> str:
        """`ahead of`, `behind` or `indistinguishable from`: whether the interval lies above, below or around zero."""
        if self.interval.low > 0:
            return "ahead of"
        return "behind" if self.interval.high < 0 else "indistinguishable from"


@dataclass(frozen=True)
class Score:
    """A score or a mean of scores, fractions; `std` (sample deviation) and `over_seeds` are None with one seed."""

    mean: float
    std: float | None
    interval: Interval
    over_seeds: Interval | None
    chance: float

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval over test pictures lies above the chance level."""
        return self.interval.low > self.chance


@dataclass(frozen=True)
class Measured:
    """A grid with the bootstrap distribution of everything in it."""

    grid: Grid
    bootstrap: Bootstrap
    drawn: Mapping[Place, Distribution]

    def places(self, stage: str, measure: str, datasets: Sequence[str]) -> list[Place]:
        """The same measure of several data sets."""
        return [Place(stage, dataset, measure) for dataset in datasets]

    def score(self, method: str, places: Sequence[Place]) -> Score:
        """The plain mean over `places`, at least one, of a method's scores.

        The interval is the percentile one: quantiles of the same mean over resamples, each data set's drawn on its own.
        """
        values = self._values(method, places)
        return Score(
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if len(values) > 1 else None,
            interval=self._percentile(self._draws(method, places)),
            over_seeds=seed_interval(values, self.bootstrap.confidence),
            chance=float(np.mean([self.grid.chance(*place) for place in places])),
        )

    def difference(self, method: str, other: str, places: Sequence[Place]) -> Difference | None:
        """The first method's mean over `places` minus the second's, on the same pictures.

        None for a method and itself, and where the other is not in the grid.
        """
        if method == other or other not in self.grid.methods:
            return None
        values = self._values(method, places) - self._values(other, places)
        draws = self._draws(method, places) - self._draws(other, places)
        return Difference(
            float(values.mean()), self._percentile(draws), seed_interval(values, self.bootstrap.confidence)
        )

    def _values(self, method: str, places: Sequence[Place]) -> npt.NDArray[np.float64]:
        per_place = [self.grid.values(place.stage, method, place.dataset, place.measure) for place in places]
        return np.asarray(np.mean(per_place, axis=0))

    def _draws(self, method: str, places: Sequence[Place]) -> npt.NDArray[np.float64]:
        column = self.grid.methods.index(method)
        return np.asarray(np.mean([self.drawn[place].drawn_SM[:, column] for place in places], axis=0))

    def _percentile(self, draws: npt.NDArray[np.float64]) -> Interval:
        tail = (1 - self.bootstrap.confidence) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Interval(float(low), float(high))


def measure_grid(grid: Grid, bootstrap: Bootstrap) -> Measured:
    """Resample every data set of every evaluation once, for all methods and measures together."""
    wanted = [(stage, dataset) for stage in OUTCOME_FILES for dataset in grid.datasets(stage)]
    drawn: dict[Place, Distribution] = {}
    for stage, dataset in tqdm(wanted, desc="intervals", unit="set", mininterval=5.0):
        found = distributions(grid, stage, dataset, samples=bootstrap.samples, seed=bootstrap.seed)
        drawn |= {Place(stage, dataset, measure): one for measure, one in found.items()}
    return Measured(grid, bootstrap, drawn)


def seed_interval(values: npt.NDArray[np.float64], confidence: float) -> Interval | None:
    """Student's t-interval of the mean over seeds of training, from (seeds,) scores; None of fewer than two."""
    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def score_columns(score: Score) -> dict[str, object]:
    """A score's parts by the names that they have in every CSV file."""
    seeds = score.over_seeds or (None, None)
    values = (score.mean, score.std, *score.interval, *seeds, score.chance, score.above_chance)
    return dict(zip(SCORE_COLUMNS, values, strict=True))
