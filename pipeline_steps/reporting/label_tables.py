"""Tables of selections and classifiers on noisy labels, and their figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.figures.style import styled
from pipeline_steps.reporting.names import MISSING, title_of
from pipeline_steps.reporting.text_table import text_table

SELECTION = ["method", "seed", "which", "rule", "size", "share", "precision", "recall", "f1", "auroc"]
_TAKEN = {"rules": "at its threshold", "at_equal_share": "at equal share"}


def selection_frame(cells: Sequence[tuple[str, int]], reports: Sequence[Path]) -> pd.DataFrame:
    """A row per selection and per rule, at its own threshold and at the selection's share; fractions."""
    rows: list[dict[str, Any]] = []
    for (method, seed), path in zip(cells, reports, strict=True):
        report = _read(path)
        cell, auroc = {"method": method, "seed": seed}, report.get("auroc", {})
        rows.append({**cell, "which": "selection", "rule": "all together", **report["selection"]})
        for group, which in _TAKEN.items():
            rows += [
                {**cell, "which": which, "rule": rule, **measured, "auroc": auroc.get(rule)}
                for rule, measured in report[group].items()
            ]
    return pd.DataFrame(rows, columns=SELECTION)


def classifier_frame(cells: Sequence[tuple[str, int]], scores: Sequence[Path]) -> pd.DataFrame:
    """A row per classifier and seed: accuracy and mean per class on the test split, fractions, of the last epoch."""
    rows = [
        {"method": method, "title": title_of(method), "seed": seed, **_read(path)}
        for (method, seed), path in zip(cells, scores, strict=True)
    ]
    return pd.DataFrame(rows)


def label_markdown(selections: pd.DataFrame, classifiers: pd.DataFrame) -> str:
    """Both as Markdown, percent, means over seeds; rules are those of CLIPCleaner where it is there, else of all."""
    own = selections[selections["method"].eq("clipcleaner")]
    first = own if len(own) else selections
    lines = ["# Noisy labels", "", "## Classifiers", ""]
    header = ["Method", "Accuracy", "Mean per class", "First selection", "its precision", "its recall"]
    chosen = selections[selections["which"].eq("selection")].groupby("method").mean(numeric_only=True)
    body = []
    for method, rows in classifiers.groupby("method", sort=False):
        quality = [MISSING, MISSING]
        if _selects(str(method)):
            quality = [_percent(chosen[name].loc[str(method)]) for name in ("precision", "recall")]
        body.append([
            str(rows["title"].iloc[0]), _percent(rows["accuracy"].mean()), _percent(rows["mean_per_class"].mean()),
            f"{rows['first_selected'].mean():,.0f}", *quality,
        ])  # fmt: skip
    lines += [text_table(header, body, "github"), "", "## Rules, of CLIPCleaner's scores", ""]
    header = ["", "Rule", "Size", "Precision", "Recall", "F1", "AUROC"]
    body = [
        [
            *map(str, which_and_rule), f"{rows['size'].mean():,.0f}",
            *(_percent(rows[name].mean()) for name in ("precision", "recall", "f1")),
            MISSING if rows["auroc"].isna().any() else f"{rows['auroc'].mean():.3f}",
        ]
        for which_and_rule, rows in first.groupby(["which", "rule"], sort=False)
    ]  # fmt: skip
    return "\n".join([*lines, text_table(header, body, "github")]) + "\n"


def label_figure(selections: pd.DataFrame) -> Figure:
    """Precision over recall of every rule at equal share and at its own threshold, and of the selection."""
    markers = {"selection": "*", "at its threshold": "o", "at equal share": "s"}
    rules = list(dict.fromkeys(selections["rule"]))
    with styled():
        figure = Figure(figsize=(6.2, 4.0))
        axis = figure.subplots()
        for number, rule in enumerate(rules):
            for which, marker in markers.items():
                rows = selections[selections["rule"].eq(rule) & selections["which"].eq(which)]
                if len(rows):
                    axis.scatter(
                        100 * rows["recall"], 100 * rows["precision"], marker=marker, s=90 if marker == "*" else 36,
                        color=f"C{number}", label=f"{rule.replace('_', ' ')}, {which}", edgecolors="white",
                        linewidths=0.5,
                    )  # fmt: skip
        axis.set_xlabel("recall of clean labels (%)")
        axis.set_ylabel("precision (%)")
        figure.legend(loc="outside right center", fontsize=7)
    return figure


def _selects(method: str) -> bool:
    """Whether a classifier is trained on a selection, and not on all or on the true labels."""
    return "labels" not in METHODS[method].settings.get("train_classifier", {})


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read ({error}); run the stage that makes it again") from error
    return found


def _percent(value: float) -> str:
    return MISSING if pd.isna(value) else f"{100 * value:.1f}"
