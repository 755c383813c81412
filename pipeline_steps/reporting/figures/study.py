"""Scores over the axis of a study: what more noise does to each method."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.figures.style import method_colour, styled
from pipeline_steps.reporting.names import title_of
from pipeline_steps.reporting.study import SHOWN, SHOWN_TITLES

CHANCE_LABEL = "chance"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def study_figure(frame: pd.DataFrame, axis_title: str) -> Figure:
    """A panel per evaluation and set: a line per method over the axis, intervals, chance, published values hollow."""
    panels = [
        (f"{dataset}: {SHOWN_TITLES[stage]}", rows)
        for stage, measure in SHOWN.items()
        for dataset, rows in frame[frame["stage"].eq(stage) & frame["measure"].eq(measure)].groupby("dataset")
    ]
    with styled():
        across = min(3, len(panels))
        down = -(-len(panels) // across)
        figure = Figure(figsize=(0.6 + 3.4 * across, 0.8 + 2.9 * down))
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for axis, (title, rows) in zip(axes, panels, strict=False):
            _panel(axis, rows)
            axis.set_title(title, loc="left")
            axis.set_xlabel(axis_title)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[::across]:
            axis.set_ylabel("score (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        last = sorted(range(len(labels)), key=lambda place: labels[place] == CHANCE_LABEL)
        figure.legend(
            [handles[place] for place in last], [labels[place] for place in last], loc="outside upper center",
            ncols=min(3, len(labels)),
        )  # fmt: skip
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    methods = list(dict.fromkeys(rows["method"]))
    width = rows["place"].max() - rows["place"].min() or 1.0
    for number, method in enumerate(methods):
        own = rows[rows["method"] == method]
        place = own["place"] + (number - (len(methods) - 1) / 2) * 0.008 * width  # so that intervals stand side by side
        errors = [100 * (own["mean"] - own["low"]).clip(lower=0), 100 * (own["high"] - own["mean"]).clip(lower=0)]
        axis.errorbar(
            place, 100 * own["mean"], yerr=errors, color=method_colour(method), label=title_of(method), markersize=4,
            linestyle="--" if method == REFERENCE else "-", marker=_MARKERS[number % len(_MARKERS)], capsize=2,
            elinewidth=0.8, linewidth=1.2,
        )  # fmt: skip
    axis.plot(
        rows["place"].drop_duplicates(), 100 * rows.groupby("place")["chance"].first(), color="black", linestyle=":",
        linewidth=1, label=CHANCE_LABEL,
    )  # fmt: skip
    axis.set_ylim(bottom=0)
    axis.set_xticks(rows["place"].drop_duplicates())
