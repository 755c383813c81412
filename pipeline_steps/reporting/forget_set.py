"""The forget sets as a table: how well each rule found the injected noise, and what the scores were in the end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.history import FORGET_SET, forget_frame
from pipeline_steps.reporting.names import MISSING, title_of
from pipeline_steps.reporting.summary import Summary
from pipeline_steps.reporting.tables import percent
from pipeline_steps.reporting.text_table import text_table

TITLES = {"base_rate": "A random pick", "precision": "Precision", "recall": "Recall", "auroc": "AUROC"}


def forget_set_frame(history: pd.DataFrame) -> pd.DataFrame:
    """A row per stage and method, in their order: mean over steps, then over seeds, and the spread over seeds.

    Columns: stage, method, title, n_seeds, and of each of `FORGET_SET` `<name>` and `<name>/std` (empty with one seed),
    fractions; nan where a measure was not taken. Empty without injected noise.
    """
    steps = forget_frame(history)
    by_seed = steps.groupby(["stage", "method", "seed", "name"], sort=False)["value"].mean().unstack("name")
    rows = []
    for (stage, method), seeds in by_seed.groupby(["stage", "method"], sort=False):
        row = {"stage": stage, "method": method, "title": title_of(str(method)), "n_seeds": len(seeds)}
        for name in FORGET_SET:
            values = seeds[name].dropna() if name in seeds else pd.Series(dtype=float)
            row |= {name: values.mean(), f"{name}/std": values.std()}
        rows.append(row)
    return pd.DataFrame(rows)


def write_forget_set(folder: Path, history: pd.DataFrame, summary: Summary) -> None:
    """Write `forget_set` as .csv and .md into the folder of tables; nothing without injected noise."""
    frame = forget_set_frame(history)
    if not len(frame):
        return
    frame.to_csv(folder / "forget_set.csv", index=False)
    columns = [column for column in summary.columns if not column.needs]
    header = ["Method, stage", *TITLES.values(), *(column.title for column in columns)]
    body = []
    for _, row in frame.iterrows():
        evaluated = METHODS[row["method"]].stage == row["stage"]
        scores = [percent(cell.score) for cell in summary.row(row["method"])] if evaluated else [""] * len(columns)
        body.append([f"{row['title']}, {row['stage']}", *(_cell(row, name) for name in TITLES), *scores])
    parts = [
        "# The forget set against the injected noise",
        "Percent; means over all steps of a stage, spread over seeds. Precision: the share of the picked pairs whose "
        "caption had been shuffled; recall: the share of the shuffled pairs that were picked, which the size of the "
        "forget set bounds. NPC has none: picked are the pairs that weigh less than 1. Scores are those of the "
        "checkpoint that the stage wrote.",
        text_table(header, body, "pipe"),
    ]
    (folder / "forget_set.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _cell(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return MISSING
    spread = "" if pd.isna(row[f"{name}/std"]) else f" ± {100 * row[f'{name}/std']:.1f}"
    return f"{100 * row[name]:.1f}{spread}"
