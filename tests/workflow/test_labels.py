"""CLIPCleaner for real, from the labels' noise to its tables: on bundled pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflow.snakemake_runs import CLASSES, snakemake, warm_environment

PICTURES = 240
LABELS = f"""
classifiers: [clipcleaner, all_labels, confidence_labels]
inject_label_noise: {{dataset: openclipart, pictures: {PICTURES}, fraction: 0.4}}
train_classifier:
  {{architecture: resnet10t, small_stem: false, epochs: 2, batch_size: 32, milestones: [1]}}
"""


def test_labels_are_cleaned_and_classifiers_trained_on_them(copied: Callable[..., Path]) -> None:
    folder = copied("labels")
    (folder / "labels.yaml").write_text(LABELS)
    files = ("config/smoke.yaml", "labels.yaml")
    ran = snakemake(folder, "results/smoke/label_tables", configfiles=files, environment=warm_environment())
    assert ran.returncode == 0, ran.stdout[-4000:]
    root = folder / "results" / "smoke"
    labels = pd.read_parquet(root / "inject_label_noise" / "labels.parquet")
    noise = json.loads((root / "inject_label_noise" / "report.json").read_text())
    assert len(labels) == PICTURES
    assert noise["wrong"] == pytest.approx((labels["label"] != labels["clean_label"]).mean())
    share = 0.4 * (1 - 1 / len(CLASSES))  # a label drawn among all classes is right once in so many
    assert noise["wrong"] == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / PICTURES))
    selection = pd.read_parquet(root / "select_clean" / "clipcleaner" / "seed0" / "selection.parquet")
    picked = selection[selection["selected"]].merge(labels, on="row")
    selections = pd.read_csv(root / "label_tables" / "selection.csv")
    whole = selections[selections["which"].eq("selection")].set_index("method")
    assert whole.loc["clipcleaner", "precision"] == pytest.approx((picked["label_y"] == picked["clean_label"]).mean())
    _require_the_half(pd.read_parquet(root / "select_clean" / "confidence_labels" / "seed0" / "selection.parquet"))
    by_class = pd.read_csv(root / "label_tables" / "by_class.csv")
    assert by_class[by_class["method"].eq("clipcleaner")]["size"].sum() == len(picked)
    classifiers = pd.read_csv(root / "label_tables" / "classifiers.csv").set_index("method")
    assert set(classifiers.index) == {"clipcleaner", "all_labels", "confidence_labels"}
    assert classifiers.loc["all_labels", "first_selected"] == PICTURES
    assert classifiers["epochs"].eq(2).all()
    again = snakemake(folder, "--dry-run", "results/smoke/label_tables", configfiles=files)
    assert "Nothing to be done" in again.stdout
    assert set(selections["method"]) == set(by_class["method"]) == {"clipcleaner", "confidence_labels"}
    assert whole.loc["clipcleaner", "base_rate"] == pytest.approx(1 - noise["wrong"])
    assert "of the labels are right" in (root / "label_tables" / "README.md").read_text()


def _require_the_half(selection: pd.DataFrame) -> None:
    """The better half by the rule's score is selected, and beyond it only samples of classes that it leaves empty."""
    half = selection.nlargest(len(selection) // 2, "confidence")
    others = selection[selection["selected"] & ~selection["row"].isin(half["row"])]
    assert selection.set_index("row")["selected"][half["row"]].all()
    assert not set(others["label"]) & set(half["label"])
