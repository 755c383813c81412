"""Recall by method, K and direction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.reporting.figures.style import method_colour, method_hatch, styled
from pipeline_steps.reporting.measured import Measured, Place
from pipeline_steps.reporting.names import RETRIEVAL, title_of


def recall_frame(measured: Measured) -> pd.DataFrame:
    """Every recall of every method: dataset, measure, method, value, low, high, chance; fractions."""
    rows = []
    for dataset in measured.grid.datasets(RETRIEVAL):
        for measure in (name for name in measured.grid.measures(RETRIEVAL, dataset) if "@" in name):
            for method in measured.grid.methods:
                score = measured.score(method, [Place(RETRIEVAL, dataset, measure)])
                rows.append((dataset, measure, method, score.mean, *score.interval, score.chance))
    return pd.DataFrame(rows, columns=["dataset", "measure", "method", "value", "low", "high", "chance"])


def recall_figure(recalls: pd.DataFrame, confidence: float) -> Figure:
    """A row of panels per data set, a panel per direction: bars by K and method, intervals, chance."""
    datasets = list(dict.fromkeys(recalls["dataset"]))
    directions = list(dict.fromkeys(recalls["measure"].str.split("_recall@").str[0]))
    with styled():
        methods = recalls["method"].nunique()
        figure = Figure(figsize=(max(7.5, 2 + 0.7 * methods), 0.6 + 0.1 * methods + 2.6 * len(datasets)))
        axes = figure.subplots(len(datasets), len(directions), sharey="row", squeeze=False)
        for row, dataset in zip(axes, datasets, strict=True):
            for axis, direction in zip(row, directions, strict=True):
                chosen = recalls[(recalls["dataset"] == dataset) & recalls["measure"].str.startswith(direction)]
                _recall_panel(axis, chosen)
                axis.set_title(f"{dataset}: {direction.replace('_', ' ')}", loc="left")
            row[0].set_ylim(bottom=0)
            row[0].set_ylabel(f"recall (%), {100 * confidence:g}% interval")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        methods_first = sorted(range(len(labels)), key=lambda place: labels[place] == "chance")
        figure.legend(
            [handles[place] for place in methods_first], [labels[place] for place in methods_first],
            loc="outside upper center", ncols=min(3, len(handles)),
        )  # fmt: skip
    return figure


def _recall_panel(axis: Axes, recalls: pd.DataFrame) -> None:
    measures, methods = list(dict.fromkeys(recalls["measure"])), list(dict.fromkeys(recalls["method"]))
    width = 0.84 / len(methods)
    for number, method in enumerate(methods):
        rows = recalls[recalls["method"] == method]
        place = np.arange(len(measures)) - 0.42 + (number + 0.5) * width
        errors = [np.maximum(0, rows["value"] - rows["low"]), np.maximum(0, rows["high"] - rows["value"])]
        axis.bar(
            place, 100 * rows["value"], 0.92 * width, yerr=100 * np.array(errors), label=title_of(method),
            color=method_colour(method), hatch=method_hatch(method), edgecolor="white", linewidth=0,
            error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    chance = 100 * recalls.drop_duplicates("measure")["chance"]
    centres = np.arange(len(measures))
    axis.hlines(chance, centres - 0.46, centres + 0.46, colors="black", linestyles="--", linewidth=1, label="chance")
    axis.set_xticks(centres, [f"R@{name.split('@')[1]}" for name in measures])
    axis.grid(visible=False, axis="x")
