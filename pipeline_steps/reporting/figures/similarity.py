"""Cosines of matched and mismatched held-out pairs by method (the paper's Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.reporting.figures.style import styled
from pipeline_steps.reporting.names import title_of

_ONE_COLUMN = 6
PAIR_KINDS = {
    "matched": ("positive pairs", "#0072B2", "-"),
    "hard_mismatched": ("hardest 5% of negative pairs, mean", "#D55E00", "--"),
    "mismatched": ("negative pairs, mean", "#7F7F7F", ":"),
}


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
    """A panel per method, shared axis of cosine: before (the reference) and after; two columns of many methods."""
    methods = list(dict.fromkeys(shares["method"]))
    columns = 1 if len(methods) <= _ONE_COLUMN else 2
    rows = -(-len(methods) // columns)
    with styled():
        figure = Figure(figsize=(6.5 if columns == 1 else 9.5, 1.1 + 1.35 * rows))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        axes = list(grid.T.flat)
        for unused in axes[len(methods) :]:
            unused.remove()
        for axis, method in zip(axes, methods, strict=False):
            _histogram_panel(axis, shares[shares["method"] == method])
            when = "before" if method == REFERENCE else "after"
            axis.set_title(f"{when}: {title_of(method)}", loc="left")
        axes[0].set_ylim(bottom=0)
        figure.supxlabel("cosine similarity of picture and caption (upright lines: means)", fontsize=9)
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
