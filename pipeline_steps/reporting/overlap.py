"""Test pictures that are also training pictures: how many, and what every score is without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Place
from pipeline_steps.reporting.names import MISSING, RETRIEVAL, measure_title, title_of
from pipeline_steps.reporting.outcomes import MEAN_RECALL, classification_score, recall_at, recall_scores
from pipeline_steps.reporting.text_table import text_table

EXACT, NEAR = "exact", "near"
TITLES = {"eval_zeroshot": "zero-shot", "eval_probe": "linear probe", "eval_retrieval": "retrieval"}


def overlap_tables(folder: Path, grid: Grid, path: Path, places: Sequence[Place]) -> None:
    """Write overlap.csv and overlap.md: of the classification `places` and of every retrieval set's mean recall."""
    recalls = [Place(RETRIEVAL, name, MEAN_RECALL) for name in grid.own_datasets(RETRIEVAL)]
    frame = overlap_frame(grid, read_overlaps(path), [*places, *recalls])
    frame.to_csv(folder / "overlap.csv", index=False)
    holes = {name: reason for stage in TITLES for name, reason in grid.holes(stage).items()}
    (folder / "overlap.md").write_text(overlap_markdown(frame, holes), encoding="utf-8")


def read_overlaps(path: Path) -> pd.DataFrame:
    """What check_overlap found: a row per test picture, columns dataset, row, kind ("exact" before "near").

    Raises PipelineError for a file that is torn or has other columns or kinds.
    """
    try:
        found = pd.read_parquet(path, columns=["dataset", "row", "kind"])
    except (ValueError, OSError) as error:
        raise PipelineError(f"{path} is torn or is no list of overlaps ({error}). Run check_overlap again.") from error
    if not set(found["kind"]) <= {EXACT, NEAR}:
        raise PipelineError(f"{path} has kinds {sorted(set(found['kind']))}; allowed are {EXACT} and {NEAR}")
    return found.sort_values("kind").drop_duplicates(["dataset", "row"], ignore_index=True)


def overlap_frame(grid: Grid, overlaps: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    """A row per place and method; fractions, means over seeds.

    Columns: stage, dataset, measure, method, n (test pictures that were asked for), exact, near (how many of them are
    training pictures, or all but), score, without (the score without these), minus (without - score). In retrieval
    they ask no question but stay in the gallery, so that ranks are those of the whole gallery.
    """
    rows = []
    for place in places:
        mine = overlaps[overlaps["dataset"] == place.dataset]
        picture = "image" if place.stage == RETRIEVAL else "row"
        asked = np.unique(grid.outcomes(place.stage, grid.methods[0], place.dataset)[0][picture])
        there = mine[mine["row"].isin(asked)]
        counts = {"n": len(asked), EXACT: int((there["kind"] == EXACT).sum()), NEAR: int((there["kind"] == NEAR).sum())}
        for method in grid.methods:
            frames = grid.outcomes(place.stage, method, place.dataset)
            ks = recall_at(grid.measures(place.stage, place.dataset))
            kept = [_score(frame[~frame[picture].isin(there["row"])], place, ks) for frame in frames]
            score = float(grid.values(*_cell(place, method)).mean())
            without = float(np.mean(kept))
            rows.append({**place._asdict(), "method": method, **counts, "score": score, "without": without})
    columns = [*Place._fields, "method", "n", EXACT, NEAR, "score", "without"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(minus=frame["without"] - frame["score"])


def overlap_markdown(frame: pd.DataFrame, holes: Mapping[str, str]) -> str:
    """Counts per data set, the sets that could not be had (`holes`: name to reason), then, for those that overlap, the
    scores with and without the pictures in question.
    """
    counts = [
        [str(row["dataset"]), str(row["task"]), f"{row['n']:,}", str(row[EXACT]), str(row[NEAR])]
        for _, row in frame.assign(task=np.where(frame["stage"] == RETRIEVAL, "retrieval", "classification"))
        .drop_duplicates(["dataset", "task", "n", EXACT, NEAR])
        .sort_values(["dataset", "task"])
        .iterrows()
    ]
    header = ["Data set", "Evaluation", "Test pictures", "Also in training", "Nearly in training"]
    told = (
        "Test pictures that ask a question (in retrieval: those with a caption), compared with the pictures of this "
        "experiment's manifest, not with what an imported checkpoint has been trained on. “Also in training”: the same "
        "file; “nearly”: another file whose perceptual hash is close."
    )
    parts = ["# Training pictures among the test pictures", told, text_table(header, counts, "pipe")]
    if holes:
        parts.append("\n".join(f"- {MISSING} {name}: {reason}" for name, reason in sorted(holes.items())))
    overlapping = frame[(frame[EXACT] > 0) | (frame[NEAR] > 0)]
    if overlapping.empty:
        return "\n\n".join([*parts, "No test picture of these sets is a training picture, or nearly one."]) + "\n"
    body = [
        [
            title_of(row["method"]),
            f"{row['dataset']}: {TITLES[row['stage']]} {measure_title(row['measure'])}",
            *(f"{100 * row[name]:{form}}" for name, form in (("score", ".1f"), ("without", ".1f"), ("minus", "+.1f"))),
        ]
        for _, row in overlapping.iterrows()
    ]
    header = ["Method", "Measure", "All pictures", "Without these", "Difference"]
    told = "Scores in percent. In retrieval these pictures and their captions ask no question, but stay in the gallery."
    return "\n\n".join([*parts, told, text_table(header, body, "pipe")]) + "\n"


def _cell(place: Place, method: str) -> tuple[str, str, str, str]:
    return place.stage, method, place.dataset, place.measure


def _score(frame: pd.DataFrame, place: Place, ks: Sequence[int]) -> float:
    if place.stage == RETRIEVAL:
        return recall_scores(frame, ks)[place.measure]
    return classification_score(frame, place.measure)
