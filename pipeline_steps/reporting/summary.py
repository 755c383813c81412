"""The summary: four headline measures per method, each against chance, the reference and the equal-compute control."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from tqdm.auto import tqdm

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import CONTROL, HEADLINES, Headline, title_of
from pipeline_steps.reporting.statistics import Bootstrap, Interval


@dataclass(frozen=True)
class Difference:
    """A method's score minus another's, a fraction, with its paired interval over test pictures."""

    estimate: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """`ahead of`, `behind` or `indistinguishable from`: whether the interval lies above, below or around zero."""
        if self.interval.low > 0:
            return "ahead of"
        return "behind" if self.interval.high < 0 else "indistinguishable from"


@dataclass(frozen=True)
class Score:
    """One cell of the summary, fractions. `std` is the sample deviation over seeds, None with one seed.

    `to_reference` and `to_control` are None for the method itself, and `to_control` without a control in the grid.
    """

    method: str
    headline: Headline
    mean: float
    std: float | None
    interval: Interval
    chance: float
    to_reference: Difference | None
    to_control: Difference | None

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above the chance level."""
        return self.interval.low > self.chance


@dataclass(frozen=True)
class Summary:
    """All cells, by method and headline; `datasets` maps an evaluation to those that its scores are the mean of."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    datasets: dict[str, tuple[str, ...]]
    confidence: float
    cells: dict[tuple[str, str], Score]

    def row(self, method: str) -> list[Score]:
        """A method's cells in the order of HEADLINES."""
        return [self.cells[method, headline.key] for headline in HEADLINES]


def summarise(grid: Grid, bootstrap: Bootstrap) -> Summary:
    """Every headline of every method; with several data sets each headline is their plain mean."""
    wanted = [(method, headline) for method in grid.methods for headline in HEADLINES]
    cells = {
        (method, headline.key): _score(grid, bootstrap, method, headline)
        for method, headline in tqdm(wanted, desc="intervals", unit="score", mininterval=5.0)
    }
    datasets = {headline.stage: grid.datasets(headline.stage) for headline in HEADLINES}
    return Summary(grid.methods, grid.seeds, datasets, bootstrap.confidence, cells)


def _score(grid: Grid, bootstrap: Bootstrap, method: str, headline: Headline) -> Score:
    datasets = grid.datasets(headline.stage)
    values = _seed_values(grid, method, headline)
    return Score(
        method=method,
        headline=headline,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        interval=bootstrap.of_score(grid, headline.stage, method, headline.measure, datasets),
        chance=sum(grid.chance(headline.stage, name, headline.measure) for name in datasets) / len(datasets),
        to_reference=_difference(grid, bootstrap, method, REFERENCE, headline),
        to_control=_difference(grid, bootstrap, method, CONTROL, headline),
    )


def _seed_values(grid: Grid, method: str, headline: Headline) -> pd.Series:
    datasets = grid.datasets(headline.stage)
    columns = [grid.values(headline.stage, method, name, headline.measure) for name in datasets]
    return pd.DataFrame(columns).mean()


def _difference(grid: Grid, bootstrap: Bootstrap, method: str, other: str, headline: Headline) -> Difference | None:
    if method == other or other not in grid.methods:
        return None
    estimate = _seed_values(grid, method, headline).mean() - _seed_values(grid, other, headline).mean()
    interval = bootstrap.of_difference(
        grid, headline.stage, (method, other), headline.measure, grid.datasets(headline.stage)
    )
    return Difference(float(estimate), interval)


def summary_frame(summary: Summary) -> pd.DataFrame:
    """One row per method and one of chance levels; columns `<headline>/<what>`, fractions, empty where undefined."""
    rows = [{"method": method, "title": title_of(method), **_columns(summary, method)} for method in summary.methods]
    chance = {f"{score.headline.key}/mean": score.chance for score in summary.row(REFERENCE)}
    return pd.DataFrame([*rows, {"method": "chance", "title": "Chance", **chance}]).astype({"n_seeds": "Int64"})


def _columns(summary: Summary, method: str) -> dict[str, object]:
    columns: dict[str, object] = {"n_seeds": len(summary.seeds)}
    for score in summary.row(method):
        key = score.headline.key
        columns |= {f"{key}/mean": score.mean, f"{key}/std": score.std}
        columns |= {f"{key}/low": score.interval.low, f"{key}/high": score.interval.high}
        columns[f"{key}/above_chance"] = score.above_chance
        for other, difference in (("control", score.to_control), ("reference", score.to_reference)):
            columns |= {
                f"{key}/minus_{other}": difference.estimate if difference else None,
                f"{key}/minus_{other}_low": difference.interval.low if difference else None,
                f"{key}/minus_{other}_high": difference.interval.high if difference else None,
            }
    return columns


def control_sentences(summary: Summary) -> Iterator[str]:
    """For every trained method other than the control, a line that says where it does not beat the control."""
    if CONTROL not in summary.methods:
        yield f"The equal-compute control (`{CONTROL}`) is not in `methods`, so no method was compared with it."
        return
    for method in summary.methods:
        if method in (REFERENCE, CONTROL):
            continue
        failed = [score for score in summary.row(method) if score.to_control and score.to_control.interval.low <= 0]
        if not failed:
            yield f"**{title_of(method)} beats the equal-compute control** on all {len(HEADLINES)} measures."
            continue
        listed = "; ".join(
            f"{score.headline.title[0].lower()}{score.headline.title[1:]} ({points(score.to_control)})"
            for score in failed
            if score.to_control
        )
        yield f"**{title_of(method)} does not beat the equal-compute control** on: {listed}."


def points(difference: Difference) -> str:
    """A difference in percentage points with its interval, such as `-1.2 [-2.4, +0.1]`."""
    low, high = difference.interval
    return f"{100 * difference.estimate:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
