"""Where a method gains and where it loses: zero-shot differences, a row per data set."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.figures.style import method_colour, styled
from pipeline_steps.reporting.measured import Measured, Place
from pipeline_steps.reporting.names import CONTROL, measure_title, title_of

SUBJECT = "ncu"
FEWEST_SETS = 3
ALL_SETS = "mean of all"


def difference_frame(measured: Measured, places: Sequence[Place]) -> pd.DataFrame:
    """NCU minus the reference and minus the control on each of `places`, one per set, and on their mean, fractions.

    Columns: other, dataset, measure, difference, low, high, seed_low, seed_high (empty with one seed). The mean is left
    out where a set is missing. Empty where NCU was not run or there are fewer than three data sets.
    """
    rows = []
    wanted = [([place], place.dataset, place.measure) for place in places]
    if places and not measured.grid.holes(places[0].stage):
        wanted.append((list(places), f"{ALL_SETS} {len(places)}", ""))
    for other in (REFERENCE, CONTROL):
        for chosen, dataset, measure in wanted:
            if SUBJECT not in measured.grid.methods or len(places) < FEWEST_SETS:
                continue
            found = measured.difference(SUBJECT, other, chosen)
            if found:
                seeds = found.over_seeds or (None, None)
                rows.append((other, dataset, measure, found.estimate, *found.interval, *seeds))
    columns = ["other", "dataset", "measure", "difference", "low", "high", "seed_low", "seed_high"]
    return pd.DataFrame(rows, columns=columns)


def difference_figure(differences: pd.DataFrame, confidence: float) -> Figure:
    """A panel per other method: a dot and its paired interval per data set, best at the top, the mean below all."""
    panels = list(differences.groupby("other", sort=False))
    first = panels[0][1]
    sets = first[first["measure"] != ""].sort_values("difference")["dataset"].tolist()
    order = [name for name in first["dataset"] if name not in sets] + sets
    with styled():
        figure = Figure(figsize=(1.4 + 3.4 * len(panels), 1.2 + 0.26 * len(order)))
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (other, rows) in zip(axes, panels, strict=True):
            _panel(axis, rows.set_index("dataset").loc[order])
            axis.set_title(f"{title_of(SUBJECT)} minus {title_of(str(other))}", loc="left")
        measures = [first.set_index("dataset").loc[name, "measure"] for name in order]
        axes[0].set_yticks(range(len(order)), [_label(*pair) for pair in zip(order, measures, strict=True)])
        figure.supxlabel(
            f"difference in zero-shot accuracy (percentage points), paired {100 * confidence:g}% interval", fontsize=9
        )
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    for height, (_, row) in enumerate(rows.iterrows()):
        clear = row["low"] > 0 or row["high"] < 0
        colour = method_colour(SUBJECT) if clear else "#7F7F7F"
        axis.hlines(height, 100 * row["low"], 100 * row["high"], colors=colour, linewidth=1.6)
        axis.plot(
            100 * row["difference"], height, marker="D" if row["measure"] == "" else "o", color=colour, markersize=5,
            markerfacecolor=colour if clear else "white",
        )  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    if (rows["measure"] == "").any():
        axis.axhline(0.5, color="#BBBBBB", linewidth=0.8)
    axis.grid(visible=False, axis="y")


def _label(dataset: str, measure: str) -> str:
    return f"{dataset} ({measure_title(measure)})" if measure not in ("", "top1") else dataset
