"""The grid of an experiment: methods x seeds x evaluations. A grid with a hole is refused, all holes named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.names import CHANCE, LINEAR_PROBE, RETRIEVAL, ZERO_SHOT

OUTCOME_FILES = {ZERO_SHOT: "predictions.parquet", LINEAR_PROBE: "predictions.parquet", RETRIEVAL: "ranks.parquet"}
_SAME_EVERYWHERE = ("n", "n_images", "n_captions", "split", "label_hash")


@dataclass(frozen=True)
class Cell:
    """One evaluation of one checkpoint: `scores` maps data set to entries; `outcomes`, a row per picture or query."""

    scores: Mapping[str, Mapping[str, Any]]
    outcomes: pd.DataFrame


@dataclass(frozen=True)
class Grid:
    """A whole grid. `cells` is keyed by (stage, method, seed); `methods` begins with the reference."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: Mapping[tuple[str, str, int], Cell]

    def entries(self, stage: str, dataset: str) -> Mapping[str, Any]:
        """The entries of a data set in the first cell; those that describe the data are the same in every cell."""
        return self.cells[stage, self.methods[0], self.seeds[0]].scores[dataset]

    def datasets(self, stage: str) -> tuple[str, ...]:
        """Data sets of an evaluation, sorted."""
        return tuple(sorted(self.cells[stage, self.methods[0], self.seeds[0]].scores))

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
        """Rows of one data set, a frame per seed."""
        frames = [self.cells[stage, method, seed].outcomes for seed in self.seeds]
        return [frame[frame["dataset"] == dataset] for frame in frames]


def read_grid(results: Path, methods: tuple[str, ...], seeds: tuple[int, ...]) -> Grid:
    """Read `<results>/<evaluation>/<method>/seed<k>/` of the reference and every method, for every seed.

    Raises PipelineError with one line per hole: a missing or torn file, a data set or measure that other cells have,
    and scores made on other data than those of the other cells.
    """
    everyone = (REFERENCE, *methods)
    cells, holes = {}, []
    for stage in OUTCOME_FILES:
        for method in everyone:
            for seed in seeds:
                try:
                    cells[stage, method, seed] = _read_cell(results / stage / method / f"seed{seed}", stage)
                except _HoleError as hole:
                    holes.append(str(hole))
    holes += [problem for stage in OUTCOME_FILES for problem in _unlike(results, stage, cells)]
    if holes:
        lines = "\n".join(f"  - {hole}" for hole in holes)
        raise PipelineError(
            f"the grid of {results} has {len(holes)} hole(s), so no table was made:\n{lines}\n"
            "Run these evaluations again; `snakemake make_tables` makes what is missing."
        )
    return Grid(everyone, seeds, cells)


class _HoleError(Exception):
    """What is wrong with one file of the grid."""


def _read_cell(folder: Path, stage: str) -> Cell:
    scores_path, outcomes_path = folder / "scores.json", folder / OUTCOME_FILES[stage]
    missing = [str(path) for path in (scores_path, outcomes_path) if not path.is_file()]
    if missing:
        raise _HoleError(f"missing: {', '.join(missing)}")
    try:
        scores = json.loads(scores_path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _HoleError(f"torn: {scores_path} ({error})") from error
    if not isinstance(scores, dict) or not all(isinstance(entries, dict) for entries in scores.values()):
        raise _HoleError(f"torn: {scores_path} (it does not map data sets to scores)")
    try:
        outcomes = pd.read_parquet(outcomes_path)
    except (ValueError, OSError) as error:
        raise _HoleError(f"torn: {outcomes_path} ({error})") from error
    return Cell(scores, outcomes)


def _unlike(results: Path, stage: str, cells: Mapping[tuple[str, str, int], Cell]) -> Iterator[str]:
    of_stage = {key: cell for key, cell in cells.items() if key[0] == stage}
    wanted = {(name, entry) for cell in of_stage.values() for name in cell.scores for entry in cell.scores[name]}
    first = next(iter(of_stage.values()), None)
    for (_, method, seed), cell in of_stage.items():
        place = results / stage / method / f"seed{seed}" / "scores.json"
        absent = sorted(f"{name}/{entry}" for name, entry in wanted if entry not in cell.scores.get(name, {}))
        if absent:
            yield f"incomplete: {place} lacks {', '.join(absent)}, which other cells have"
        if first is None or absent:
            continue
        for name, entries in cell.scores.items():
            for entry in _SAME_EVERYWHERE:
                here, there = entries.get(entry), first.scores.get(name, {}).get(entry)
                if here != there:
                    yield f"other data: {place} has {name}/{entry} = {here!r}, and other cells have {there!r}"


def _reading_order(measure: str) -> tuple[bool, list[tuple[int, str]]]:
    parts = [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", measure)]
    return measure.startswith("mean"), parts
