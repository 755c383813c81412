"""A selection of samples against the truth: size, precision, recall, by class, and every score at equal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def selection_report(
    selected: Flags,
    picks: Mapping[str, Flags],
    at_equal_share: Mapping[str, Flags],
    scores: Mapping[str, Floats],
    is_clean: Flags | None,
    label: Integers,
    classes: Sequence[str],
) -> dict[str, Any]:
    """What was selected, what each rule picks at its own threshold, and each score at the selection's share.

    Precision is the share of clean samples among those taken, recall the share of the clean ones that were taken; both
    need the truth, as AUROC does. Classes are those of the given labels.
    """
    report: dict[str, Any] = {
        "samples": len(selected),
        "selection": measured(selected, is_clean),
        "rules": {rule: measured(taken, is_clean) for rule, taken in picks.items()},
        "at_equal_share": {rule: measured(taken, is_clean) for rule, taken in at_equal_share.items()},
        "by_class": {
            name: measured(selected[label == k], None if is_clean is None else is_clean[label == k])
            for k, name in enumerate(classes)
        },
    }
    if is_clean is not None:
        report["clean"] = int(is_clean.sum())
        if 0 < is_clean.sum() < len(is_clean):
            finite = {rule: np.nan_to_num(score, nan=0.0) for rule, score in scores.items()}  # what no threshold passes
            report["auroc"] = {rule: float(roc_auc_score(is_clean, score)) for rule, score in finite.items()}
    return report


def measured(taken: Flags, is_clean: Flags | None) -> dict[str, float]:
    """size, share and, with the truth, precision, recall and f1; 0 where there is nothing to divide by."""
    found: dict[str, float] = {"size": int(taken.sum()), "share": float(taken.mean()) if len(taken) else 0.0}
    if is_clean is not None and len(taken):
        values = precision_recall_fscore_support(is_clean, taken, average="binary", zero_division=0)[:3]
        found |= dict(zip(("precision", "recall", "f1"), map(float, values), strict=True))
    return found
