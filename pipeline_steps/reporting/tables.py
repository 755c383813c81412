"""Tables as CSV (fractions, full precision) and Markdown (percent, one decimal)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import (
    CONTROL,
    HEADLINES,
    LINEAR_PROBE,
    RETRIEVAL,
    ZERO_SHOT,
    measure_title,
    title_of,
)
from pipeline_steps.reporting.summary import Summary, control_sentences, points, summary_frame
from pipeline_steps.reporting.text_table import text_table

FILE_NAMES = {ZERO_SHOT: "zero_shot", LINEAR_PROBE: "linear_probe", RETRIEVAL: "retrieval"}
TITLES = {ZERO_SHOT: "Zero-shot classification", LINEAR_PROBE: "Linear probe", RETRIEVAL: "Retrieval"}
CHANCE_IS = {
    ZERO_SHOT: "a random class",
    LINEAR_PROBE: "for accuracy, always the largest training class; per class, a random class",
    RETRIEVAL: "a random order",
}
_DESCRIBING = ("split", "n", "n_images", "n_captions", "label_hash")


def write_tables(folder: Path, grid: Grid, summary: Summary) -> None:
    """Write `zero_shot`, `linear_probe`, `retrieval` and `summary`, each as .csv and .md, into an existing folder."""
    for stage, name in FILE_NAMES.items():
        evaluation_frame(grid, stage).to_csv(folder / f"{name}.csv", index=False)
        (folder / f"{name}.md").write_text(evaluation_markdown(grid, stage), encoding="utf-8")
    summary_frame(summary).to_csv(folder / "summary.csv", index=False)
    (folder / "summary.md").write_text(summary_markdown(summary), encoding="utf-8")


def evaluation_frame(grid: Grid, stage: str) -> pd.DataFrame:
    """One row per method and one of chance levels.

    Columns `<data set>/<measure>/mean` and `/std` (sample deviation over seeds, empty with one), fractions, and
    `<data set>/<fact>` for what the score was made on: split, number of pictures, hash of the labels.
    """
    rows = []
    for method in grid.methods:
        row: dict[str, object] = {"method": method, "title": title_of(method), "n_seeds": len(grid.seeds)}
        for dataset, measure in _columns(grid, stage):
            values = grid.values(stage, method, dataset, measure)
            row[f"{dataset}/{measure}/mean"] = values.mean()
            row[f"{dataset}/{measure}/std"] = values.std(ddof=1) if len(values) > 1 else None
        rows.append(row | _facts(grid, stage))
    chance = {f"{name}/{measure}/mean": grid.chance(stage, name, measure) for name, measure in _columns(grid, stage)}
    last = {"method": "chance", "title": "Chance", **chance, **_facts(grid, stage)}
    return pd.DataFrame([*rows, last]).astype({"n_seeds": "Int64"})


def evaluation_markdown(grid: Grid, stage: str) -> str:
    """The same for people: percent, mean and spread over seeds."""
    columns = _columns(grid, stage)
    several = len(grid.datasets(stage)) > 1
    header = ["Method", *(f"{f'{name}: ' if several else ''}{measure_title(measure)}" for name, measure in columns)]
    body = []
    for method in grid.methods:
        values = [grid.values(stage, method, dataset, measure) for dataset, measure in columns]
        body.append([title_of(method), *(_percent(value.mean(), _spread(value)) for value in values)])
    body.append(["Chance", *(_percent(grid.chance(stage, *column)) for column in columns)])
    made_on = [f"- Chance: {CHANCE_IS[stage]}."]
    made_on += [f"- {name}: {_described(grid, stage, name)}." for name in grid.datasets(stage)]
    return "\n\n".join(
        [f"# {TITLES[stage]}", _seeds_sentence(grid.seeds), text_table(header, body, "pipe"), "\n".join(made_on)]
    ) + "\n"  # fmt: skip


def summary_markdown(summary: Summary) -> str:
    """Scores, then differences to the equal-compute control, then in words where a method does not beat it."""
    coverage = f"{100 * summary.confidence:g}%"
    header = ["Method", *(headline.title for headline in HEADLINES)]
    body = [
        [title_of(m), *(_percent(s.mean, s.std) + ("" if s.above_chance else " †") for s in summary.row(m))]
        for m in summary.methods
    ]
    body.append(["Chance", *(_percent(score.chance) for score in summary.row(REFERENCE))])
    parts = ["# Summary", f"{_seeds_sentence(summary.seeds)} {_datasets_sentence(summary)}"]
    parts.append(text_table(header, body, "pipe"))
    if not all(cell.above_chance for cell in summary.cells.values()):
        parts.append(f"† the {coverage} bootstrap interval over test pictures is not above chance.")
    if CONTROL in summary.methods:
        others = [method for method in summary.methods if method != CONTROL]
        differences = [
            [title_of(m), *(points(s.to_control) if s.to_control else "" for s in summary.row(m))] for m in others
        ]
        parts += [
            "## Against the equal-compute control",
            f"Score minus that of “{title_of(CONTROL)}”, in percentage points, with the {coverage} interval of a "
            "bootstrap paired over test pictures.",
            text_table(header, differences, "pipe"),
        ]
    parts.append("\n".join(f"- {sentence}" for sentence in control_sentences(summary)))
    return "\n\n".join(parts) + "\n"


def _columns(grid: Grid, stage: str) -> list[tuple[str, str]]:
    return [(dataset, measure) for dataset in grid.datasets(stage) for measure in grid.measures(stage, dataset)]


def _facts(grid: Grid, stage: str) -> dict[str, object]:
    return {
        f"{dataset}/{fact}": grid.entries(stage, dataset)[fact]
        for dataset in grid.datasets(stage)
        for fact in _DESCRIBING
        if fact in grid.entries(stage, dataset)
    }


def _described(grid: Grid, stage: str, dataset: str) -> str:
    entries = grid.entries(stage, dataset)
    facts = {"n": "pictures", "n_images": "pictures", "n_captions": "captions", "classes": "classes"}
    counted = [f"{entries[fact]:,} {noun}" for fact, noun in facts.items() if fact in entries]
    labels = f"labels {entries['label_hash']}" if entries.get("label_hash") else ""
    return ", ".join(part for part in (f"{entries['split']} split", *counted, labels) if part)


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _percent(fraction: float, spread: float | None = None) -> str:
    return f"{100 * fraction:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _datasets_sentence(summary: Summary) -> str:
    listed = [f"{TITLES[stage].lower()}: {', '.join(names)}" for stage, names in summary.datasets.items()]
    return f"Each score is the plain mean over its data sets ({'; '.join(listed)})."


def _seeds_sentence(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"In percent; one seed ({seeds[0]})."
    return f"In percent; mean ± sample standard deviation over {len(seeds)} seeds."
