"""The grid of an experiment: methods x seeds x evaluations. An incomplete grid is refused, everything missing named.

A data set that could not be had is no gap of the grid: it is a named hole, the same in every cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json
from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.evaluation.scores import HOLE, Score, Scores
from pipeline_steps.reporting.names import CHANCE, LINEAR_PROBE, RETRIEVAL, ZERO_SHOT

OUTCOME_FILES = {ZERO_SHOT: "predictions.parquet", LINEAR_PROBE: "predictions.parquet", RETRIEVAL: "ranks.parquet"}
_SAME_EVERYWHERE = (
    "n", "n_split", "n_images", "n_captions", "n_train", "classes", "split", "metric", "label_hash", "evaluator",
    "folds", "tap", "normalize",
)  # fmt: skip
_SAME_ROWS = {
    ZERO_SHOT: ("row", "label"), LINEAR_PROBE: ("row", "label"), RETRIEVAL: ("direction", "query", "image"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One evaluation of one checkpoint: `scores` maps data set to entries, `holes` to why it could not be had.

    `outcomes` has for every scored data set a row per picture or query, sorted.
    """

    scores: Mapping[str, Mapping[str, Any]]
    holes: Mapping[str, str]
    outcomes: Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Grid:
    """A whole grid. `cells` is keyed by (stage, method, seed); `methods` begins with the reference."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, str, int], Cell]

    def entries(self, stage: str, dataset: str) -> Mapping[str, Any]:
        """The entries of a data set in the first cell; those that describe the data are the same in every cell."""
        return self._first(stage).scores[dataset]

    def datasets(self, stage: str) -> tuple[str, ...]:
        """Scored data sets of an evaluation, sorted."""
        return tuple(sorted(self._first(stage).scores))

    def own_datasets(self, stage: str) -> tuple[str, ...]:
        """The same without the second entries of sets that are also scored in folds: what a mean is taken over."""
        return tuple(name for name in self.datasets(stage) if self.folds(stage, name) == 1)

    def folds(self, stage: str, dataset: str) -> int:
        """Into how many galleries of consecutive pictures, `n_images` each, a retrieval entry divides its set."""
        return int(self.entries(stage, dataset).get("folds", 1))

    def holes(self, stage: str) -> dict[str, str]:
        """Data sets of an evaluation that could not be had, sorted, each with the line that says why."""
        return dict(sorted(self._first(stage).holes.items()))

    def measures(self, stage: str, dataset: str) -> tuple[str, ...]:
        """Measures in reading order: by number of k (1, 5, 10), means last."""
        entries = self.entries(stage, dataset)
        return tuple(sorted((name for name in entries if f"{CHANCE}{name}" in entries), key=_reading_order))

    def values(self, stage: str, method: str, dataset: str, measure: str) -> npt.NDArray[np.float64]:
        """The measure of each seed, fractions, in the order of `seeds`."""
        return np.array([self.cells[stage, method, seed].scores[dataset][measure] for seed in self.seeds])

    def chance(self, stage: str, dataset: str, measure: str) -> float:
        """The chance level of a measure, a fraction."""
        return float(self.entries(stage, dataset)[f"{CHANCE}{measure}"])

    def outcomes(self, stage: str, method: str, dataset: str) -> list[pd.DataFrame]:
        """Rows of one data set, a frame per seed; the pictures or queries are the same in all of them."""
        return [self.cells[stage, method, seed].outcomes[dataset] for seed in self.seeds]

    def converged(self, stage: str, method: str, dataset: str) -> bool | None:
        """Whether the probes of all seeds are at their optimum; None for an evaluation that fits nothing."""
        found = [self.cells[stage, method, seed].scores[dataset].get("converged") for seed in self.seeds]
        return None if None in found else all(found)

    def _first(self, stage: str) -> Cell:
        return self.cells[stage, self.methods[0], self.seeds[0]]


def read_grid(results: Path, methods: tuple[str, ...], seeds: tuple[int, ...]) -> Grid:
    """Read `<results>/<evaluation>/<method>/seed<k>/` of the reference and every method, for every seed.

    Raises PipelineError with one line per gap: a missing or torn file, a data set or measure that other cells have,
    and scores made on other data than those of the other cells.
    """
    everyone = (REFERENCE, *methods)
    cells, gaps = {}, []
    for stage in OUTCOME_FILES:
        for method in everyone:
            for seed in seeds:
                try:
                    cells[stage, method, seed] = _read_cell(results / stage / method / f"seed{seed}", stage)
                except _GapError as gap:
                    gaps.append(str(gap))
    gaps += [problem for stage in OUTCOME_FILES for problem in _unlike(results, stage, cells)]
    if gaps:
        lines = "\n".join(f"  - {gap}" for gap in gaps)
        raise PipelineError(
            f"the grid of {results} has {len(gaps)} hole(s), so no table was made:\n{lines}\n"
            "Run these evaluations again; `snakemake --forcerun make_tables` makes what is missing."
        )
    return Grid(everyone, seeds, cells)


class _GapError(Exception):
    """What is wrong with one file of the grid."""


def _read_cell(folder: Path, stage: str) -> Cell:
    scores_path, outcomes_path = folder / "scores.json", folder / OUTCOME_FILES[stage]
    missing = [str(path) for path in (scores_path, outcomes_path) if not path.is_file()]
    if missing:
        raise _GapError(f"missing: {', '.join(missing)}")
    try:
        found: Scores = read_json(scores_path, dict[str, dict[str, Score]], "").copy()
    except PipelineError as error:
        raise _GapError(f"torn: {error}".strip()) from error
    scores = {name: entries for name, entries in found.items() if HOLE not in entries}
    holes = {name: str(entries[HOLE]) for name, entries in found.items() if HOLE in entries}
    return Cell(scores, holes, _read_outcomes(outcomes_path, stage, tuple(scores)))


def _read_outcomes(path: Path, stage: str, datasets: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """The rows of each data set, whole numbers as int32: a grid of many sets, methods and seeds fits in memory."""
    if not datasets:
        return {}
    try:
        table = pq.read_table(path)
        small = pa.schema(pa.field(f.name, pa.int32()) if pa.types.is_integer(f.type) else f for f in table.schema)
        everything = table.cast(small).to_pandas(strings_to_categorical=True)
        for name in everything.select_dtypes("category"):
            everything[name] = everything[name].cat.set_categories(sorted(everything[name].cat.categories))
        parts = dict(list(everything.groupby("dataset", observed=True, sort=False)))
        return {
            name: parts[name].drop(columns="dataset").sort_values(list(_SAME_ROWS[stage]), ignore_index=True)
            for name in datasets
        }
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise _GapError(f"torn: {path} ({error})") from error


def _unlike(results: Path, stage: str, cells: Mapping[tuple[str, str, int], Cell]) -> Iterator[str]:
    of_stage = {key: cell for key, cell in cells.items() if key[0] == stage}
    wanted = {(name, entry) for cell in of_stage.values() for name in cell.scores for entry in cell.scores[name]}
    held_out = {name for cell in of_stage.values() for name in cell.holes}
    first = next(iter(of_stage.values()), None)
    for (_, method, seed), cell in of_stage.items():
        place = results / stage / method / f"seed{seed}" / "scores.json"
        uneven = sorted({name for name, _ in wanted if name in cell.holes} | (held_out - {*cell.scores, *cell.holes}))
        yield from (f"incomplete: {place} has no scores of {name}: {_why(cell, name)}" for name in uneven)
        absent = sorted(f"{n}/{e}" for n, e in wanted if n not in cell.holes and e not in cell.scores.get(n, {}))
        if absent:
            yield f"incomplete: {place} lacks {', '.join(absent)}, which other cells have"
        if first is not None and not absent and not uneven:
            yield from _other_data(place, stage, cell, first)


def _why(cell: Cell, name: str) -> str:
    reason = cell.holes.get(name)
    return f"a hole here ({reason}), and others have them" if reason else "other cells name it as a hole"


def _other_data(place: Path, stage: str, cell: Cell, first: Cell) -> Iterator[str]:
    for name, entries in cell.scores.items():
        if name not in first.scores:
            continue
        there = first.scores[name]
        different = [entry for entry in _SAME_EVERYWHERE if entries.get(entry) != there.get(entry)]
        for entry in different:
            yield (
                f"other data: {place} has {name}/{entry} = {entries.get(entry)!r}, and other cells have "
                f"{there.get(entry)!r}"
            )
        rows = list(_SAME_ROWS[stage])
        if not different and not cell.outcomes[name][rows].equals(first.outcomes[name][rows]):
            yield f"other data: {place.parent / OUTCOME_FILES[stage]} has other rows of {name} than the other cells"


def _reading_order(measure: str) -> tuple[bool, list[tuple[int, str]]]:
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", measure)]
    return measure.startswith("mean"), parts
