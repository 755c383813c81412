"""Tables of selections and classifiers on noisy labels, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_steps.core.files import read_json
from pipeline_steps.reporting.figures.style import styled
from pipeline_steps.reporting.names import MISSING, title_of
from pipeline_steps.reporting.text_table import text_table

MEASURED = ["size", "share", "precision", "recall", "f1"]
SELECTION = ["method", "seed", "which", "rule", *MEASURED, "auroc", "base_rate"]
CONFIDENCE = 0.95
_SELECTION_MARKERS = ("*", "D", "^", "P")
_TAKEN = {"rules": "at its threshold", "at_equal_share": "at equal share"}


def selection_frame(cells: Sequence[tuple[str, int]], reports: Sequence[Path]) -> pd.DataFrame:
    """A row per selection and per rule, at its own threshold and at the selection's share; fractions.

    `base_rate`: share of right labels, a random pick's precision.
    """
    rows: list[dict[str, Any]] = []
    for (method, seed), path in zip(cells, reports, strict=True):
        report = _read(path)
        cell, auroc = {"method": method, "seed": seed}, report.get("auroc", {})
        base = {"base_rate": report["clean"] / report["samples"]} if "clean" in report else {}
        rows.append({**cell, "which": "selection", "rule": "all together", **report["selection"], **base})
        for group, which in _TAKEN.items():
            rows += [
                {**cell, "which": which, "rule": rule, **measured, "auroc": auroc.get(rule)}
                for rule, measured in report[group].items()
            ]
    return pd.DataFrame(rows, columns=SELECTION)


def class_frame(cells: Sequence[tuple[str, int]], reports: Sequence[Path]) -> pd.DataFrame:
    """A row per selection and class of the given labels: size, share and, with the truth, precision, recall, F1."""
    rows = [
        {"method": method, "seed": seed, "class": name, **measured}
        for (method, seed), path in zip(cells, reports, strict=True)
        for name, measured in _read(path)["by_class"].items()
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "class", *MEASURED])


def classifier_frame(cells: Sequence[tuple[str, int]], scores: Sequence[Path]) -> pd.DataFrame:
    """A row per classifier and seed: accuracy and mean per class on the test split, fractions, of the last epoch.

    `labels` is what it was trained on: selected, all, or true.
    """
    rows = [
        {"method": method, "title": title_of(method), "seed": seed, **_read(path)}
        for (method, seed), path in zip(cells, scores, strict=True)
    ]
    return pd.DataFrame(rows)


def label_markdown(selections: pd.DataFrame, by_class: pd.DataFrame, classifiers: pd.DataFrame) -> str:
    """All three as Markdown, percent, means over seeds; rules and classes are those of `_shown_method`."""
    parts = ["# Noisy labels", "## Classifiers", _classifier_table(selections, classifiers)]
    parts.append(
        f"In brackets: {100 * CONFIDENCE:g}% interval of the accuracy on so many test pictures (Wilson). The luck of "
        "training is not in it."
    )
    if len(selections):
        shown = _shown_method(selections)
        own, titled = selections[selections["method"].eq(shown)], title_of(shown)
        parts += [f"## Rules, of the scores of {titled}", _rule_table(own)]
        if pd.notna(base := own["base_rate"].mean()):
            parts.append(f"{_percent(base)}% of the labels are right, which is the precision of a random pick.")
        parts += [f"## Classes (given labels), {titled}", _class_table(by_class[by_class["method"].eq(shown)])]
    return "\n\n".join(parts) + "\n"


def _classifier_table(selections: pd.DataFrame, classifiers: pd.DataFrame) -> str:
    from scipy.stats import binomtest  # a second, and only for this

    header = ["Method", "Accuracy", "Mean per class", "First selection", "its precision", "its recall"]
    chosen = selections[selections["which"].eq("selection")].groupby("method").mean(numeric_only=True)
    body = []
    for method, rows in classifiers.groupby("method", sort=False):
        quality = [MISSING, MISSING]
        if method in chosen.index:
            quality = [_percent(chosen[name].loc[str(method)]) for name in ("precision", "recall")]
        accuracy, count = rows["accuracy"].mean(), int(rows["n"].iloc[0])
        interval = binomtest(round(accuracy * count), count).proportion_ci(CONFIDENCE, "wilson")
        body.append([
            str(rows["title"].iloc[0]), f"{_percent(accuracy)} [{_percent(interval.low)}, {_percent(interval.high)}]",
            _percent(rows["mean_per_class"].mean()), f"{rows['first_selected'].mean():,.0f}", *quality,
        ])  # fmt: skip
    return text_table(header, body, "github")


def _rule_table(rows: pd.DataFrame) -> str:
    header = ["", "Rule", "Size", "Precision", "Recall", "F1", "AUROC"]
    body = [
        [
            *map(str, which_and_rule), *_measured_cells(of_rule),
            MISSING if of_rule["auroc"].isna().any() else f"{of_rule['auroc'].mean():.3f}",
        ]
        for which_and_rule, of_rule in rows.groupby(["which", "rule"], sort=False)
    ]  # fmt: skip
    return text_table(header, body, "github")


def _class_table(rows: pd.DataFrame) -> str:
    body = [[str(name), *_measured_cells(of_class)] for name, of_class in rows.groupby("class", sort=False)]
    return text_table(["Class", "Size", "Precision", "Recall", "F1"], body, "github")


def _measured_cells(rows: pd.DataFrame) -> list[str]:
    return [f"{rows['size'].mean():,.0f}", *(_percent(rows[name].mean()) for name in ("precision", "recall", "f1"))]


def label_figure(selections: pd.DataFrame) -> Figure:
    """Precision over recall: the rules of `_shown_method` at their thresholds and at its share, and every selection."""
    own = selections[selections["method"].eq(_shown_method(selections)) & selections["which"].ne("selection")]
    whole = selections[selections["which"].eq("selection")]
    with styled():
        figure = Figure(figsize=(7.4, 4.0))
        axis = figure.subplots()
        for number, rule in enumerate(dict.fromkeys(own["rule"])):
            for which, marker in (("at its threshold", "o"), ("at equal share", "s")):
                rows = own[own["rule"].eq(rule) & own["which"].eq(which)]
                if len(rows):
                    _points(axis, rows, f"{rule.replace('_', ' ')}, {which}", color=f"C{number}", marker=marker, s=36)
        for number, method in enumerate(dict.fromkeys(whole["method"])):
            rows, title = whole[whole["method"].eq(method)], title_of(method)
            _points(axis, rows, title, color="black", marker=_SELECTION_MARKERS[number % 4], s=70, facecolors="none")
        axis.set_xlabel("recall of clean labels (%)")
        axis.set_ylabel("precision (%)")
        figure.legend(loc="outside right center", fontsize=7)
    return figure


def _points(axis: Axes, rows: pd.DataFrame, label: str, **looks: Any) -> None:
    axis.scatter(100 * rows["recall"], 100 * rows["precision"], label=label, linewidths=1.0, **looks)


def _shown_method(selections: pd.DataFrame) -> str:
    """CLIPCleaner where it is there, else the first."""
    methods = list(dict.fromkeys(selections["method"]))
    return "clipcleaner" if "clipcleaner" in methods else str(methods[0])


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any], "Run the stage that makes it again.")


def _percent(value: float) -> str:
    return MISSING if pd.isna(value) else f"{100 * value:.1f}"
