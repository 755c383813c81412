"""Tables over the experiments of a study, from the tables that each of them made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.names import (
    AT_CHANCE,
    LINEAR_PROBE,
    MISSING,
    RETRIEVAL,
    ZERO_SHOT,
    column_title,
    measure_title,
)
from pipeline_steps.reporting.published import Published, published_frame
from pipeline_steps.reporting.tables import FILE_NAMES
from pipeline_steps.reporting.text_table import text_table

_MINUS = "/minus_control"
KEYS = ["place", "dataset", "method", "measure"]
# What a study is looked at by first: a measure of each evaluation, and what people read for it.
SHOWN = {RETRIEVAL: "mean_recall", ZERO_SHOT: "top1", LINEAR_PROBE: "accuracy"}
SHOWN_TITLES = {RETRIEVAL: "mean recall", ZERO_SHOT: "zero-shot top-1", LINEAR_PROBE: "linear probe"}


def study_frame(tables: Mapping[str, Path], places: Mapping[str, float], published: Published | None) -> pd.DataFrame:
    """Every score of every experiment, a row each, by rising place on the axis.

    `tables` has the folder of make_tables by the name of the entry, `places` where the entry stands. Columns: entry,
    place, stage, what the tables of an experiment have (fractions), `published` where there is such a value, and
    `minus_published` where that value is to be trusted. Raises PipelineError for a folder without tables.
    """
    frames = [
        _of_experiment(folder, FILE_NAMES[stage]).assign(entry=entry, place=places[entry], stage=stage)
        for entry, folder in tables.items()
        for stage in SHOWN
    ]
    whole = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    whole = whole[whole["hole"].isna()] if "hole" in whole else whole
    whole = whole.merge(published_frame(published), how="left", on=KEYS)
    trusted = whole.pop("trusted").eq(True)  # noqa: FBT003 - a column of true, false and nothing
    whole["minus_published"] = (whole["mean"] - whole["published"]).where(trusted)
    first = ["entry", "place", "stage", "dataset", "measure", "method", "title"]
    return whole[[*first, *(name for name in whole if name not in first)]].sort_values("place", kind="stable")


def recall_markdown(frame: pd.DataFrame, axis_title: str, published: Published | None) -> str:
    """A table per retrieval set: place and method down, recalls across, percent; published values in brackets."""
    lines = ["# Retrieval, by experiment", "", f"Percent; {AT_CHANCE} not above chance."]
    if published:
        lines += ["", f"In brackets: {published.source}."]
        for dataset, of_set in published.datasets.items():
            for measure, reason in of_set.not_trusted.items():
                lines += ["", f"{measure_title(measure)} of {dataset} is not to be compared: {reason}."]
    recalls = frame[frame["stage"].eq(RETRIEVAL) & ~frame["measure"].str.startswith("mean")]
    for name, rows in recalls.groupby("dataset", sort=False):
        measures = list(dict.fromkeys(rows["measure"]))
        header = ["Method", axis_title, *(measure_title(measure) for measure in measures)]
        body = []
        for (place, title), cells in rows.groupby(["place", "title"], sort=False):
            of_measure = cells.set_index("measure")
            body.append([str(title), f"{place:g}", *(_cell(of_measure.loc[measure]) for measure in measures)])
        lines += ["", f"## {name}", "", text_table(header, body, "github")]
    return "\n".join(lines) + "\n"


def control_frame(tables: Mapping[str, Path], places: Mapping[str, float]) -> pd.DataFrame:
    """What every experiment's summary says of a method against the equal-compute control, by rising place.

    Columns: entry, place, method, title, headline (a column of the summary), minus_control, low, high (fractions, with
    the interval of the paired bootstrap). Empty without that control.
    """
    rows = []
    for entry, folder in tables.items():
        whole = _of_experiment(folder, "summary")
        for column in (str(name) for name in whole if str(name).endswith(_MINUS)):
            for _, row in whole[whole[column].notna()].iterrows():
                names = {"entry": entry, "place": places[entry], "method": row["method"], "title": row["title"]}
                names["headline"] = column.removesuffix(_MINUS)
                rows.append(
                    {**names, "minus_control": row[column], **{k: row[f"{column}_{k}"] for k in ("low", "high")}}
                )
    columns = ["entry", "place", "method", "title", "headline", "minus_control", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values("place", kind="stable")


def headline_markdown(frame: pd.DataFrame, control: pd.DataFrame, axis_title: str) -> str:
    """Method down, places across: mean recall, zero-shot top-1 and probe accuracy of every set, percent; then the
    differences of `control_frame`.
    """
    lines = ["# By experiment", "", f"Percent, over {axis_title}; {AT_CHANCE} not above chance."]
    for stage, measure in SHOWN.items():
        chosen = frame[frame["stage"].eq(stage) & frame["measure"].eq(measure)]
        for dataset, rows in chosen.groupby("dataset", sort=False):
            lines += ["", f"## {dataset}: {SHOWN_TITLES[stage]}", "", _over_places(rows, _cell)]
    for headline, rows in control.groupby("headline", sort=False):
        title = f"## {column_title(str(headline))} minus that of the equal-compute control [interval], points"
        lines += ["", title, "", _over_places(rows, _difference_cell)]
    return "\n".join(lines) + "\n"


def shown_metrics(frame: pd.DataFrame) -> list[tuple[str, int, float]]:
    """For MLflow, whose steps are whole numbers: name, 100 x place, score, of what is looked at first."""
    chosen = frame[[row["measure"] == SHOWN[row["stage"]] for _, row in frame.iterrows()]]
    return [
        (f"{FILE_NAMES[row['stage']]}/{row['dataset']}/{row['measure']}/{row['method']}", round(100 * row["place"]),
         float(row["mean"]))
        for _, row in chosen.iterrows()
    ]  # fmt: skip


def _of_experiment(folder: Path, name: str) -> pd.DataFrame:
    try:
        return pd.read_csv(folder / f"{name}.csv")
    except (OSError, ValueError) as error:
        raise PipelineError(f"{folder} has no {name}.csv that can be read ({error}); run make_tables there") from error


def _over_places(rows: pd.DataFrame, cell: Callable[[pd.Series], str]) -> str:
    """Method down, places across."""
    places = list(dict.fromkeys(rows["place"]))
    body = [
        [str(title), *(cell(cells.set_index("place").loc[place]) for place in places)]
        for title, cells in rows.groupby("title", sort=False)
    ]
    return text_table(["Method", *(f"{place:g}" for place in places)], body, "github")


def _difference_cell(row: pd.Series) -> str:
    estimate, low, high = (100 * row[name] for name in ("minus_control", "low", "high"))
    return f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"


def _cell(row: pd.Series) -> str:
    if not np.isfinite(row["mean"]):
        return MISSING
    text = f"{100 * row['mean']:.1f}{'' if row['above_chance'] else AT_CHANCE}"
    if np.isfinite(row.get("published", np.nan)):
        text += f" ({100 * row['published']:.1f}{'' if np.isfinite(row['minus_published']) else '?'})"
    return text
