"""The summary: headline measures per method, each against chance, the reference and the equal-compute control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.grid import OUTCOME_FILES, Grid
from pipeline_steps.reporting.measured import Difference, Measured, Score, score_columns
from pipeline_steps.reporting.names import AVERAGE_MARK, CONTROL, HEADLINES, Headline, column_title, title_of

VERDICTS = ("behind", "indistinguishable", "ahead")


@dataclass(frozen=True)
class Column:
    """A column of the summary: a headline's plain mean over `datasets`, all of the evaluation's or a named average's.

    `needs` are sets that it would be the mean of but that have no scores: then it has no numbers.
    """

    headline: Headline
    average: str | None
    datasets: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def key(self) -> str:
        """The column's name in files."""
        return self.headline.key + (f"{AVERAGE_MARK}{self.average}" if self.average else "")

    @property
    def sets(self) -> int:
        """The number of sets that it is, or would be, the mean of."""
        return len(self.datasets) + len(self.needs)

    @property
    def title(self) -> str:
        """What people read for it."""
        return column_title(self.key, self.sets)


@dataclass(frozen=True)
class SummaryCell:
    """A number of the summary. `to_reference` and `to_control` are None for the method itself, and `to_control` without
    a control in the grid."""

    column: Column
    score: Score
    to_reference: Difference | None
    to_control: Difference | None


@dataclass(frozen=True)
class Summary:
    """All cells, by method and column key; columns that need a set that is missing have none. `holes` says why."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    holes: Mapping[str, str]
    confidence: float
    cells: Mapping[tuple[str, str], SummaryCell]

    def row(self, method: str) -> list[SummaryCell]:
        """A method's numbers in the order of the columns."""
        return [self.cells[method, column.key] for column in self.columns if not column.needs]

    def given(self, headline: str) -> Column | None:
        """The first column of a headline that has numbers: over all sets, or else over those of a named average."""
        return next((c for c in self.columns if c.headline.key == headline and not c.needs), None)


def summarise(measured: Measured, averages: Mapping[str, Sequence[str]] | None = None) -> Summary:
    """Every headline of every method, over all sets and over those of each of `averages` (name: data sets).

    Raises PipelineError for an average over sets that this experiment does not evaluate.
    """
    grid = measured.grid
    columns = tuple(_columns(grid, averages or {}))
    cells = {}
    for method in grid.methods:
        for column in (column for column in columns if not column.needs):
            places = measured.places(column.headline.stage, column.headline.measure, column.datasets)
            cells[method, column.key] = SummaryCell(
                column,
                measured.score(method, places),
                measured.difference(method, REFERENCE, places),
                measured.difference(method, CONTROL, places),
            )
    return Summary(grid.methods, grid.seeds, columns, all_holes(grid), measured.bootstrap.confidence, cells)


def all_holes(grid: Grid) -> dict[str, str]:
    """Every data set that some evaluation could not have, and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in (item for stage in OUTCOME_FILES for item in grid.holes(stage).items()):
        if reason not in reasons.setdefault(name, []):
            reasons[name].append(reason)
    return {name: "; ".join(lines) for name, lines in sorted(reasons.items())}


def _columns(grid: Grid, averages: Mapping[str, Sequence[str]]) -> Iterator[Column]:
    known = {name for stage in OUTCOME_FILES for name in (*grid.datasets(stage), *grid.holes(stage))}
    unknown = [f"{name}: {', '.join(absent)}" for name, sets in averages.items() if (absent := sorted({*sets} - known))]
    if unknown:
        raise PipelineError(
            f"make_tables.averages names sets that this experiment does not evaluate ({'; '.join(unknown)}); "
            f"evaluated are {', '.join(sorted(known))}. Take them out, or add them to prepare_dataset.datasets."
        )
    for headline in HEADLINES:
        scored = grid.own_datasets(headline.stage)
        yield Column(headline, None, scored, tuple(grid.holes(headline.stage)) or (() if scored else ("a data set",)))
        for name, sets in averages.items():
            there = tuple(dataset for dataset in sets if dataset in grid.datasets(headline.stage))
            needs = tuple(dataset for dataset in sets if dataset in grid.holes(headline.stage))
            if there or needs:
                yield Column(headline, name, there, needs)


def summary_frame(summary: Summary) -> pd.DataFrame:
    """One row per method and one of chance levels; columns `<column>/<what>`, fractions, empty where undefined.

    `mean`, `std` and `seed_low`, `seed_high` (t-interval) over seeds; `low`, `high` of the bootstrap over test
    pictures; the same of the differences to control and reference; `sets`, the number of data sets, and `needs`, those
    that are missing.
    """
    rows = [{"method": method, "title": title_of(method), **_cells(summary, method)} for method in summary.methods]
    chance = {
        f"{column.key}/mean": summary.cells[REFERENCE, column.key].score.chance
        for column in summary.columns
        if not column.needs
    }
    return pd.DataFrame([*rows, {"method": "chance", "title": "Chance", **chance}]).astype({"n_seeds": "Int64"})


def _cells(summary: Summary, method: str) -> dict[str, object]:
    row: dict[str, object] = {"n_seeds": len(summary.seeds)}
    for column in summary.columns:
        cell = summary.cells.get((method, column.key))
        if cell:
            row |= {f"{column.key}/{name}": value for name, value in score_columns(cell.score).items()}
            for other, difference in (("control", cell.to_control), ("reference", cell.to_reference)):
                row |= _difference_columns(f"{column.key}/minus_{other}", difference)
        row |= {f"{column.key}/sets": column.sets, f"{column.key}/needs": " ".join(column.needs) or None}
    return row


def _difference_columns(key: str, difference: Difference | None) -> dict[str, object]:
    low, high = difference.interval if difference else (None, None)
    seed_low, seed_high = (difference and difference.over_seeds) or (None, None)
    return {
        key: difference and difference.estimate, f"{key}_low": low, f"{key}_high": high,
        f"{key}_seed_low": seed_low, f"{key}_seed_high": seed_high,
    }  # fmt: skip


def control_sentences(summary: Summary) -> Iterator[str]:
    """For every trained method other than the control, a line that says where it stands against the control."""
    if CONTROL not in summary.methods:
        yield f"The equal-compute control (`{CONTROL}`) is not in `methods`, so no method was compared with it."
        return
    for method in summary.methods:
        row = summary.row(method)
        if method in (REFERENCE, CONTROL) or not row:
            continue
        failed = [cell for cell in row if cell.to_control and cell.to_control.interval.low <= 0]
        if not failed:
            yield f"**{title_of(method)} beats the equal-compute control** on all {len(row)} measures."
            continue
        parts = [f"{verdict} on {listed}" for verdict in VERDICTS if (listed := _with_verdict(row, verdict))]
        yield f"**{title_of(method)} does not beat the equal-compute control** throughout: {'; '.join(parts)}."


def _with_verdict(row: Sequence[SummaryCell], verdict: str) -> str:
    return ", ".join(
        f"{cell.column.title[0].lower()}{cell.column.title[1:]} ({points(cell.to_control)})"
        for cell in row
        if cell.to_control and cell.to_control.verdict.startswith(verdict)
    )


def points(difference: Difference) -> str:
    """A difference in percentage points with its interval, such as `-1.2 [-2.4, +0.1]`."""
    low, high = difference.interval
    return f"{100 * difference.estimate:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
