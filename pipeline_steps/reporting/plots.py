"""Figures for paper and screen: consistent, colour-blind-safe colours; PNG, SVG and the data as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import RETRIEVAL, title_of
from pipeline_steps.reporting.statistics import Bootstrap

PNG_DPI = 150
# Okabe and Ito's palette; the reference is grey, the other methods keep their place in the table of methods.
_PALETTE = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
_REFERENCE_COLOUR = "#7F7F7F"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "figures",
    "svg.fonttype": "path",
}
PAIR_KINDS = {
    "matched": ("matched pair", "#0072B2", "-"),
    "hard_mismatched": ("5% nearest mismatched, mean", "#D55E00", "--"),
    "mismatched": ("all mismatched, mean", "#7F7F7F", ":"),
}


def method_colour(method: str) -> str:
    """The colour of a method in every figure; methods beyond the palette begin it again."""
    if method == REFERENCE:
        return _REFERENCE_COLOUR
    others = [name for name in METHODS if name != REFERENCE]
    return _PALETTE[(others.index(method) if method in others else len(others)) % len(_PALETTE)]


@contextmanager
def styled() -> Iterator[None]:
    """Our style within the block, whatever the user's matplotlibrc says."""
    with style.context(["default", _STYLE]):
        yield


def save(folder: Path, name: str, figure: Figure, data: pd.DataFrame) -> None:
    """Write `<name>.png` (150 dpi), `<name>.svg` and `<name>.csv`, which holds what the figure shows."""
    with styled():
        figure.savefig(folder / f"{name}.png", dpi=PNG_DPI)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    data.to_csv(folder / f"{name}.csv", index=False)


def histogram_frame(similarities: Mapping[str, pd.DataFrame], bins: int = 60) -> pd.DataFrame:
    """Shares of held-out pictures per bin of cosine; the bins are those of all methods together.

    `similarities` maps method to columns matched, mismatched, hard_mismatched. Columns: method, pairs, bin_left,
    bin_right, share (they add up to 1 per method and kind), mean.
    """
    everything = np.concatenate([frame[kind].to_numpy() for frame in similarities.values() for kind in PAIR_KINDS])
    edges = np.linspace(everything.min(), everything.max() + 1e-9, bins + 1)
    parts = []
    for method, frame in similarities.items():
        for kind in PAIR_KINDS:
            counts, _ = np.histogram(frame[kind], bins=edges)
            columns = {"bin_left": edges[:-1], "bin_right": edges[1:], "share": counts / len(frame)}
            parts.append(pd.DataFrame({"method": method, "pairs": kind, **columns, "mean": frame[kind].mean()}))
    return pd.concat(parts, ignore_index=True)


def similarity_figure(shares: pd.DataFrame) -> Figure:
    """One panel per method under the other, shared axis of cosine: before (the reference) and after."""
    methods = list(dict.fromkeys(shares["method"]))
    with styled():
        figure = Figure(figsize=(6.5, 1.1 + 1.35 * len(methods)))
        axes = figure.subplots(len(methods), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, method in zip(axes, methods, strict=True):
            _histogram_panel(axis, shares[shares["method"] == method])
            when = "before" if method == REFERENCE else "after"
            axis.set_title(f"{when}: {title_of(method)}", loc="left")
        axes[0].set_ylim(bottom=0)
        axes[-1].set_xlabel("cosine similarity of picture and caption")
        figure.supylabel("held-out pictures per bin (%)", fontsize=9)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(PAIR_KINDS))
    return figure


def _histogram_panel(axis: Axes, of_method: pd.DataFrame) -> None:
    for kind, (label, colour, line) in PAIR_KINDS.items():
        rows = of_method[of_method["pairs"] == kind]
        edges = [*rows["bin_left"], rows["bin_right"].iloc[-1]]
        axis.stairs(100 * rows["share"], edges, color=colour, linestyle=line, linewidth=1.4, label=label)
        axis.stairs(100 * rows["share"], edges, color=colour, alpha=0.12, fill=True)
        axis.axvline(rows["mean"].iloc[0], color=colour, linestyle=line, linewidth=0.8)


def recall_frame(grid: Grid, bootstrap: Bootstrap) -> pd.DataFrame:
    """Every recall of every method: dataset, measure, method, value, low, high, chance; fractions."""
    rows = []
    for dataset in grid.datasets(RETRIEVAL):
        for measure in (name for name in grid.measures(RETRIEVAL, dataset) if "@" in name):
            for method in grid.methods:
                low, high = bootstrap.of_score(grid, RETRIEVAL, method, measure, [dataset])
                value = float(grid.values(RETRIEVAL, method, dataset, measure).mean())
                chance = grid.chance(RETRIEVAL, dataset, measure)
                rows.append((dataset, measure, method, value, low, high, chance))
    return pd.DataFrame(rows, columns=["dataset", "measure", "method", "value", "low", "high", "chance"])


def recall_figure(recalls: pd.DataFrame, confidence: float) -> Figure:
    """A row of panels per data set, a panel per direction: bars by K and method, intervals, chance."""
    datasets = list(dict.fromkeys(recalls["dataset"]))
    directions = list(dict.fromkeys(recalls["measure"].str.split("_recall@").str[0]))
    with styled():
        figure = Figure(figsize=(7.5, 0.7 + 2.6 * len(datasets)))
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
            color=method_colour(method), error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    chance = 100 * recalls.drop_duplicates("measure")["chance"]
    centres = np.arange(len(measures))
    axis.hlines(chance, centres - 0.46, centres + 0.46, colors="black", linestyles="--", linewidth=1, label="chance")
    axis.set_xticks(centres, [f"R@{name.split('@')[1]}" for name in measures])
    axis.grid(visible=False, axis="x")
