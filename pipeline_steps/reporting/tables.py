"""Tables of everything that was measured, as CSV (fractions, full precision) and Markdown (percent, one decimal)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import SCORE_COLUMNS, Measured, Place, Score, score_columns
from pipeline_steps.reporting.names import (
    AT_CHANCE,
    CONTROL,
    LINEAR_PROBE,
    MISSING,
    RETRIEVAL,
    ZERO_SHOT,
    measure_title,
    title_of,
)
from pipeline_steps.reporting.summary import Column, Summary, control_sentences, points, summary_frame
from pipeline_steps.reporting.text_table import text_table

FILE_NAMES = {ZERO_SHOT: "zero_shot", LINEAR_PROBE: "linear_probe", RETRIEVAL: "retrieval"}
TITLES = {ZERO_SHOT: "Zero-shot classification", LINEAR_PROBE: "Linear probe", RETRIEVAL: "Retrieval"}
HOLES = "holes.csv"
CHANCE_IS = {
    ZERO_SHOT: "a random class",
    LINEAR_PROBE: "for accuracy, always the largest training class; per class, a random class",
    RETRIEVAL: "a random order",
}
FACTS = (
    "title", "split", "n", "n_split", "n_images", "n_captions", "n_train", "classes", "metric",
    "label_hash", "evaluator", "source", "tap", "normalize",
)  # fmt: skip


def write_tables(folder: Path, measured: Measured, summary: Summary) -> None:
    """Write `zero_shot`, `linear_probe`, `retrieval` and `summary`, each as .csv and .md, into an existing folder.

    `holes.csv` names the data sets that could not be had, where there are any.
    """
    for stage, name in FILE_NAMES.items():
        evaluation_frame(measured, stage).to_csv(folder / f"{name}.csv", index=False)
        (folder / f"{name}.md").write_text(evaluation_markdown(measured, stage), encoding="utf-8")
    summary_frame(summary).to_csv(folder / "summary.csv", index=False)
    (folder / "summary.md").write_text(summary_markdown(summary), encoding="utf-8")
    if summary.holes:
        pd.DataFrame(summary.holes.items(), columns=["dataset", "hole"]).to_csv(folder / HOLES, index=False)


def evaluation_frame(measured: Measured, stage: str) -> pd.DataFrame:
    """A row per data set, measure and method, and one per data set that could not be had, with its `hole`.

    `mean`, `std` and the t-interval `seed_low`, `seed_high` are over seeds (empty with one); `low`, `high` the
    percentile bootstrap over test pictures. The other columns say on what the score was made.
    """
    grid, rows = measured.grid, []
    for dataset in grid.datasets(stage):
        facts = {
            f"dataset_{fact}" if fact == "title" else fact: grid.entries(stage, dataset).get(fact) for fact in FACTS
        }
        for measure in grid.measures(stage, dataset):
            for method in grid.methods:
                score = measured.score(method, [Place(stage, dataset, measure)])
                names = {"dataset": dataset, "measure": measure, "method": method, "title": title_of(method)}
                made = {"n_seeds": len(grid.seeds), "converged": grid.converged(stage, method, dataset)}
                rows.append({**names, **score_columns(score), **made, **facts})
    rows += [{"dataset": name, "hole": reason} for name, reason in grid.holes(stage).items()]
    counts = ["n_seeds", *(fact for fact in FACTS if fact.startswith("n")), "classes"]
    columns = ["dataset", "measure", "method", "title", *SCORE_COLUMNS, "n_seeds", "converged"]
    columns += [_fact_column(fact) for fact in FACTS]
    frame = pd.DataFrame(rows, columns=[*columns, "hole"])
    typed = frame.astype(dict.fromkeys(counts, "Int64"))
    return typed.dropna(axis=1, how="all") if rows else typed


def _fact_column(fact: str) -> str:
    return f"dataset_{fact}" if fact == "title" else fact


def evaluation_markdown(measured: Measured, stage: str) -> str:
    """The same for people: a table per data set, percent, mean and spread over seeds."""
    grid, parts, marked = measured.grid, [], False
    for dataset in grid.datasets(stage):
        places = [Place(stage, dataset, measure) for measure in grid.measures(stage, dataset)]
        body = [[title_of(m), *(percent(measured.score(m, [place])) for place in places)] for m in grid.methods]
        marked = marked or any(AT_CHANCE in cell for row in body for cell in row)
        body.append(["Chance", *(f"{100 * grid.chance(*place):.1f}" for place in places)])
        header = ["Method", *(measure_title(place.measure) for place in places)]
        heading = [f"## {dataset}"] if len(grid.datasets(stage)) > 1 else []
        parts += [*heading, text_table(header, body, "pipe"), f"{dataset}: {described(grid, stage, dataset)}."]
    notes = [f"- Chance: {CHANCE_IS[stage]}."] if parts else []
    notes += [chance_note(measured.bootstrap.confidence)] if marked else []
    stopped = _not_converged(grid, stage)
    notes += [f"- Not converged: {stopped}."] if stopped else []
    notes += [f"- {MISSING} {name}: {reason}" for name, reason in grid.holes(stage).items()]
    notes = notes or ["- No data set of this experiment is for this evaluation."]
    return "\n\n".join([f"# {TITLES[stage]}", seeds_sentence(grid.seeds), *parts, "\n".join(notes)]) + "\n"


def summary_markdown(summary: Summary) -> str:
    """Scores, then differences to the equal-compute control, then in words where a method does not beat it."""
    coverage = f"{100 * summary.confidence:g}%"
    header = ["Method", *(column.title for column in summary.columns)]
    body = [[title_of(method), *_scores(summary, method)] for method in summary.methods]
    body.append(["Chance", *_chances(summary)])
    parts = ["# Summary", f"{seeds_sentence(summary.seeds)} {_datasets_sentence(summary)}"]
    parts.append(text_table(header, body, "pipe"))
    notes = [f"- {MISSING} {column.title}: not given, needs {', '.join(column.needs)}." for column in _needy(summary)]
    notes += [f"- {MISSING} {name}: {reason}" for name, reason in summary.holes.items()]
    if not all(cell.score.above_chance for cell in summary.cells.values()):
        notes.append(chance_note(summary.confidence))
    parts += ["\n".join(notes)] if notes else []
    if CONTROL in summary.methods and summary.cells:
        others = [method for method in summary.methods if method != CONTROL]
        header = ["Method", *(column.title for column in summary.columns if not column.needs)]
        differences = [
            [title_of(m), *(points(cell.to_control) if cell.to_control else "" for cell in summary.row(m))]
            for m in others
        ]
        parts += [
            "## Against the equal-compute control",
            f"Score minus that of “{title_of(CONTROL)}”, in percentage points, with the {coverage} interval of a "
            "bootstrap paired over test pictures.",
            text_table(
                ["Method", *(column.title for column in summary.columns if not column.needs)], differences, "pipe"
            ),
        ]
    parts.append("\n".join(f"- {sentence}" for sentence in control_sentences(summary)))
    return "\n\n".join(part for part in parts if part) + "\n"


def percent(score: Score) -> str:
    """A score for people: percent, the spread over seeds where there is one, and the mark of chance."""
    spread = "" if score.std is None else f" ± {100 * score.std:.1f}"
    return f"{100 * score.mean:.1f}{spread}" + ("" if score.above_chance else f" {AT_CHANCE}")


def chance_note(confidence: float) -> str:
    """What the mark of chance means."""
    return f"- {AT_CHANCE} at chance: the {100 * confidence:g}% bootstrap interval over test pictures is not above it."


def described(grid: Grid, stage: str, dataset: str) -> str:
    """On what the scores of a data set were made, in one line."""
    entries = grid.entries(stage, dataset)
    nouns = {"n": "pictures", "n_images": "pictures", "n_captions": "captions", "classes": "classes"}
    if "n" in entries:
        nouns.pop("n_images")
    counted = [f"{entries[fact]:,} {noun}" for fact, noun in nouns.items() if fact in entries]
    words = {"metric": "metric", "label_hash": "labels", "evaluator": "evaluator", "source": "from"}
    said = [f"{word} {entries[fact]}" for fact, word in words.items() if entries.get(fact)]
    return ", ".join([f"{entries['split']} split", *counted, *said])


def seeds_sentence(seeds: Sequence[int]) -> str:
    """Over how many seeds of training a table's scores are."""
    if len(seeds) == 1:
        return f"In percent; one seed ({seeds[0]})."
    return f"In percent; mean ± sample standard deviation over {len(seeds)} seeds."


def _scores(summary: Summary, method: str) -> list[str]:
    cells = [summary.cells.get((method, column.key)) for column in summary.columns]
    return [percent(cell.score) if cell else MISSING for cell in cells]


def _chances(summary: Summary) -> list[str]:
    cells = [summary.cells.get((REFERENCE, column.key)) for column in summary.columns]
    return [f"{100 * cell.score.chance:.1f}" if cell else MISSING for cell in cells]


def _needy(summary: Summary) -> list[Column]:
    return [column for column in summary.columns if column.needs]


def _not_converged(grid: Grid, stage: str) -> str:
    every = [(dataset, method) for dataset in grid.datasets(stage) for method in grid.methods]
    return ", ".join(
        f"{title_of(m)} on {dataset}" for dataset, m in every if grid.converged(stage, m, dataset) is False
    )


def _datasets_sentence(summary: Summary) -> str:
    listed: dict[str, str] = {}
    for column in summary.columns:
        name = TITLES[column.headline.stage].lower() + (f", {column.average}" if column.average else "")
        if column.datasets and not column.needs:
            listed[name] = f"{len(column.datasets)}, {', '.join(column.datasets)}"
    sets = "; ".join(f"{name}: {text}" for name, text in listed.items())
    return f"Each score is the plain mean over its data sets ({sets})." if sets else ""
