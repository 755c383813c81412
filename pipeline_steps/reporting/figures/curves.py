"""Curves over training steps: losses, and the forget set against the injected noise."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline_steps.reporting.figures.style import method_colour, styled
from pipeline_steps.reporting.history import FORGET_SET
from pipeline_steps.reporting.names import title_of

_TERM_COLOURS = ("black", "#666666", "#999999", "black", "#666666")  # a method has a colour, a term a kind of line
_TERM_LINES = ("--", ":", "-.", (0, (5, 1)), (0, (1, 1)))
_FORGET_STYLE = {
    "precision": ("#0072B2", "-"), "recall": ("#E69F00", "--"), "auroc": ("#CC79A7", "-."), "base_rate": ("black", ":"),
}  # fmt: skip
_FORGET_LABELS = {
    "precision": "precision", "recall": "recall", "auroc": "AUROC",
    "base_rate": "share of shuffled pairs (precision of a random pick)",
}  # fmt: skip
_COLUMNS = 3


def loss_figure(losses: pd.DataFrame) -> Figure:
    """A panel per training stage and method: every step thin, the running mean thick, the loss's terms broken."""
    panels = list(losses.groupby(["stage", "method"], sort=False))
    with styled():
        figure, axes = _small_multiples(len(panels), height=2.4)
        for axis, ((stage, method), rows) in zip(axes, panels, strict=True):
            _loss_panel(axis, str(method), rows)
            axis.set_title(f"{stage}\n{title_of(str(method))}", loc="left")
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.supxlabel("training step (thin: each step, thick: running mean)", fontsize=9)
        figure.supylabel("loss", fontsize=9)
    return figure


def forget_figure(forget: pd.DataFrame) -> Figure:
    """A panel per training stage and method: precision, recall, AUROC and share of shuffled pairs, running means."""
    panels = list(forget.groupby(["stage", "method"], sort=False))
    with styled():
        figure, axes = _small_multiples(len(panels), height=2.4, sharey=True)
        for axis, ((stage, method), rows) in zip(axes, panels, strict=True):
            for name in FORGET_SET:
                _seed_lines(axis, rows[rows["name"] == name], *_FORGET_STYLE[name], label=_FORGET_LABELS[name])
            axis.set_title(f"{stage}\n{title_of(str(method))}", loc="left")
            axis.set_ylim(0, 100)
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.supxlabel("training step", fontsize=9)
        figure.supylabel("forget set (%)", fontsize=9)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(FORGET_SET))
    return figure


def _small_multiples(count: int, *, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.0, 2.9 * columns), 0.8 + height * rows))
    axes = list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _loss_panel(axis: Axes, method: str, rows: pd.DataFrame) -> None:
    for _, curve in rows[rows["name"] == "loss"].groupby("seed"):
        axis.plot(curve["step"], curve["value"], color=method_colour(method), linewidth=0.5, alpha=0.4)
        label = None if axis.get_legend_handles_labels()[1] else "loss"
        axis.plot(curve["step"], curve["smoothed"], color=method_colour(method), linewidth=1.8, label=label)
    terms = [name for name in dict.fromkeys(rows["name"]) if name != "loss"]
    if len(terms) < 2:
        return
    for number, term in enumerate(terms):
        colour, line = _TERM_COLOURS[number % len(_TERM_COLOURS)], _TERM_LINES[number % len(_TERM_LINES)]
        for index, (_, curve) in enumerate(rows[rows["name"] == term].groupby("seed")):
            label = term.removeprefix("loss/") if index == 0 else None
            axis.plot(curve["step"], curve["smoothed"], color=colour, linestyle=line, linewidth=1.2, label=label)
    axis.legend(fontsize=7.5, handlelength=2.4)


def _seed_lines(axis: Axes, rows: pd.DataFrame, colour: str, line: str, *, label: str) -> None:
    for index, (_, curve) in enumerate(rows.groupby("seed")):
        axis.plot(
            curve["step"], 100 * curve["smoothed"], color=colour, linestyle=line, linewidth=1.5,
            label=label if index == 0 else None,
        )  # fmt: skip
