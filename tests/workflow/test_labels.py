"""CLIPCleaner for real, from the labels' noise to its tables: on the bundled pictures, and on a subset of CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.real_features import CIFAR10
from tests.workflow.snakemake_runs import snakemake, workspace

PICTURES = 400
SMALL = """
experiment: labels
methods: []
train_reference: {{training: {{epochs: 1, pairs: 640}}}}
classifiers: [clipcleaner, all_labels, confidence_labels]
prepare_dataset: {{datasets: [{dataset}]}}
inject_label_noise: {{dataset: {dataset}, pictures: {pictures}, fraction: 0.4}}
train_classifier:
  {{architecture: resnet10t, small_stem: false, epochs: 2, batch_size: 32, milestones: [1]}}
"""
SETS = [
    "openclipart",
    pytest.param(
        "cifar10",
        marks=pytest.mark.skipif(
            not (CIFAR10 / "train.parquet").is_file(),
            reason="needs CIFAR-10 as parquet: CIFAR10=folder of train.parquet and test.parquet",
        ),
    ),
]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("dataset", SETS)
def test_labels_are_cleaned_and_classifiers_trained_on_them(tmp_path: Path, dataset: str) -> None:
    folder = workspace(tmp_path / "project")
    (folder / "labels.yaml").write_text(SMALL.format(dataset=dataset, pictures=PICTURES))
    if dataset == "cifar10":
        (folder / "data" / "evaluation").mkdir(parents=True)
        (folder / "data" / "evaluation" / "cifar10").symlink_to(CIFAR10)
    files = ("config/smoke.yaml", "labels.yaml")
    ran = snakemake(folder, "--cores", "2", "results/labels/label_tables", configfiles=files)
    assert ran.returncode == 0, ran.stdout[-4000:]
    root = folder / "results" / "labels"
    labels = pd.read_parquet(root / "inject_label_noise" / "labels.parquet")
    noise = json.loads((root / "inject_label_noise" / "report.json").read_text())
    assert len(labels) == PICTURES
    assert noise["wrong"] == pytest.approx((labels["label"] != labels["clean_label"]).mean())
    assert 0.25 < noise["wrong"] < 0.45
    selection = pd.read_parquet(root / "select_clean" / "clipcleaner" / "seed0" / "selection.parquet")
    picked = selection[selection["selected"]].merge(labels, on="row")
    selections = pd.read_csv(root / "label_tables" / "selection.csv")
    whole = selections[selections["which"].eq("selection")].set_index("method")
    assert whole.loc["clipcleaner", "precision"] == pytest.approx((picked["label_y"] == picked["clean_label"]).mean())
    assert whole.loc["confidence_labels", "share"] == pytest.approx(0.5, abs=0.1)
    by_class = pd.read_csv(root / "label_tables" / "by_class.csv")
    assert by_class[by_class["method"].eq("clipcleaner")]["size"].sum() == len(picked)
    classifiers = pd.read_csv(root / "label_tables" / "classifiers.csv").set_index("method")
    assert set(classifiers.index) == {"clipcleaner", "all_labels", "confidence_labels"}
    assert classifiers.loc["all_labels", "first_selected"] == PICTURES
    assert classifiers["epochs"].eq(2).all()
    again = snakemake(folder, "--dry-run", "results/labels/label_tables", configfiles=files)
    assert "Nothing to be done" in again.stdout
    assert set(selections["method"]) == set(by_class["method"]) == {"clipcleaner", "confidence_labels"}
    assert whole.loc["clipcleaner", "base_rate"] == pytest.approx(1 - noise["wrong"])
    assert "of the labels are right" in (root / "label_tables" / "README.md").read_text()
