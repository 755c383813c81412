"""Scores against the number of pairs that NCU was fine-tuned on (the paper's Fig. 4)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from msgspec import Struct

from pipeline_steps.core.files import read_json
from pipeline_steps.core.methods import METHODS, REFERENCE
from pipeline_steps.reporting.figures.style import method_colour, styled
from pipeline_steps.reporting.measured import Measured, Place
from pipeline_steps.reporting.names import RETRIEVAL, ZERO_SHOT, title_of

WHOLE = "ncu"
FEWEST_SIZES = 2
_PAPERS = {ZERO_SHOT: "imagenet1k", RETRIEVAL: "mscoco"}
_MEASURES = {ZERO_SHOT: ("top1", "zero-shot top-1"), RETRIEVAL: ("mean_recall", "mean recall")}


class _Splits(Struct):
    train: int


class _Report(Struct):
    splits: _Splits


def pairs_in_use(methods: Sequence[str], results: Path, pairs: int | None) -> dict[str, int]:
    """`pairs_of` these methods with build_manifest's count; empty where NCU ran on one number of pairs only.

    Raises PipelineError when the count is wanted and the manifest's report is not there.
    """
    if len(pairs_of(methods, sys.maxsize, pairs)) < FEWEST_SIZES:
        return {}
    path = results / "build_manifest" / "report.json"
    remedy = "Fig. 4 needs the number of pairs to train on: run build_manifest."
    return pairs_of(methods, read_json(path, _Report, remedy).splits.train, pairs)


def pairs_of(methods: Sequence[str], all_pairs: int, pairs: int | None) -> dict[str, int]:
    """The number of pairs of NCU and of its runs on partial data, ascending, of those among `methods`.

    `all_pairs` are in the manifest to train on, `pairs` is what `unlearn.training.pairs` leaves of them (None: all).
    """
    found = {}
    for method in methods:
        own = METHODS[method].settings.get("unlearn", {}).get("training", {}).get("pairs")
        if own or method == WHOLE:
            found[method] = min(own or pairs or all_pairs, all_pairs)
    return dict(sorted(found.items(), key=lambda item: item[1]))


def partial_frame(measured: Measured, pairs: Mapping[str, int]) -> pd.DataFrame:
    """A row per evaluation and method, and one of the reference with no pairs; fractions.

    Columns: stage, measure, datasets, method, pairs, value, low, high. The data sets are the paper's (ImageNet1K and
    MSCOCO) where they were scored, and the mean over all others where not. Empty with fewer than two sizes.
    """
    rows = []
    for stage, (measure, _) in _MEASURES.items() if len(set(pairs.values())) >= FEWEST_SIZES else ():
        own = measured.grid.own_datasets(stage)
        datasets = (_PAPERS[stage],) if _PAPERS[stage] in own else own
        places = [Place(stage, dataset, measure) for dataset in datasets]
        for method, count in {REFERENCE: 0, **pairs}.items() if places else ():
            score = measured.score(method, places)
            rows.append((stage, measure, ", ".join(datasets), method, count, score.mean, *score.interval))
    columns = ["stage", "measure", "datasets", "method", "pairs", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def partial_figure(frame: pd.DataFrame, confidence: float) -> Figure:
    """A panel per evaluation: scores with intervals over thousands or millions of pairs, the reference as a line."""
    panels = list(frame.groupby("stage", sort=False))
    with styled():
        figure = Figure(figsize=(0.6 + 3.5 * len(panels), 3.2))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (stage, rows) in zip(axes, panels, strict=True):
            _panel(axis, rows)
            axis.set_title(_where(rows["datasets"].iloc[0]), loc="left")
            axis.set_ylabel(f"{_MEASURES[str(stage)][1]} (%), {100 * confidence:g}% interval")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    of_ncu, reference = rows[rows["pairs"] > 0], rows[rows["method"] == REFERENCE].iloc[0]
    unit, name = (1e6, "million") if of_ncu["pairs"].max() >= 1e6 else (1e3, "thousand")
    errors = [100 * (of_ncu["value"] - of_ncu["low"]), 100 * (of_ncu["high"] - of_ncu["value"])]
    axis.axhspan(
        100 * reference["low"], 100 * reference["high"], color=method_colour(REFERENCE), alpha=0.15, linewidth=0
    )
    axis.axhline(
        100 * reference["value"], color=method_colour(REFERENCE), linestyle="--", label=title_of(REFERENCE)
    )  # fmt: skip
    axis.errorbar(
        of_ncu["pairs"] / unit, 100 * of_ncu["value"], yerr=errors, color=method_colour(WHOLE), marker="o",
        markersize=4, capsize=3, elinewidth=1, label=title_of(WHOLE),
    )  # fmt: skip
    axis.set_xlim(left=0)
    axis.set_xlabel(f"{name} pairs")


def _where(datasets: str) -> str:
    count = datasets.count(",") + 1
    return datasets if count == 1 else f"mean of {count} sets"
