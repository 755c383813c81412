"""The steps on noisy labels by their command lines, one after another, on a made set of two classes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from pipeline_steps import inject_label_noise, make_label_tables, select_clean, train_classifier
from pipeline_steps.core.config import load_config, merged, settings_json
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import write_json
from pipeline_steps.data.labels import read_labels, starting_selection
from pipeline_steps.evaluation.datasets.prepared import read_prepared
from tests.unit.evaluation.features import made
from tests.unit.paths import REPOSITORY
from tests.unit.step_runs import runs_of
from tests.unit.training.tiny import RAW

pytestmark = pytest.mark.usefixtures("warm")

TRAIN, TEST = 60, 20
SMALL = {
    "architecture": "resnet10t", "small_stem": False, "image_size": 32, "epochs": 3, "batch_size": 16,
    "milestones": [2], "lr": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a prepared set, its features, and labels of which some are wrong."""
    folder = tmp_path_factory.mktemp("labels")
    (checkpoint,) = made.checkpoints(folder, 1)
    prepared = made.classification_set(folder, "pets", test=TEST, train=TRAIN)
    made.extracted([checkpoint], [prepared], folder / "features")  # which writes features_0.json beside its cache
    return folder


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _settings(step: Any, **sections: Any) -> str:
    noise = {"dataset": "pets", "fraction": 0.4, "symmetric_draws": "other_classes"}
    raw = merged(RAW, {"inject_label_noise": noise, "train_classifier": SMALL}, sections)
    found = json.loads(settings_json(load_config(raw), "experiment", *step.STEP.sections))
    return json.dumps(found | {"experiment": "test"})


def _noise(folder: Path, output: Path, **noise: Any) -> dict[str, Any]:
    options = ["--prepared", str(folder / "pets"), "--labels", str(output / "labels.parquet")]
    options += ["--report", str(output / "noise.json")]
    settings = _settings(inject_label_noise, inject_label_noise=noise)
    assert inject_label_noise.STEP.main([*options, "--settings", settings]) == 0
    report: dict[str, Any] = json.loads((output / "noise.json").read_text())
    return report


def _select(folder: Path, output: Path, **select: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    options = ["--features", str(folder / "features_0.json"), "--checkpoint", str(folder / "checkpoint0")]
    options += ["--labels", str(output / "labels.parquet"), "--selection", str(output / "selection.parquet")]
    options += ["--report", str(output / "report.json"), "--method", "clipcleaner"]
    assert select_clean.STEP.main([*options, "--settings", _settings(select_clean, select_clean=select)]) == 0
    return pd.read_parquet(output / "selection.parquet"), json.loads((output / "report.json").read_text())


def _train(folder: Path, output: Path, *, warn_at: Path | None = None, **train: Any) -> None:
    """Run the step in this process; with `warn_at` in its own, which gets SIGTERM as soon as that file is there."""
    output.mkdir(exist_ok=True)
    names = {
        "scores": "scores.json",
        "history": "history.parquet",
        "predictions": "p.parquet",
        "weights": "m.safetensors",
    }
    options = ["--prepared", str(folder / "pets"), "--labels", str(output.parent / "labels.parquet")]
    options += ["--selection", str(output.parent / "selection.parquet"), "--method", "clipcleaner", "--threads", "1"]
    options += [part for name, file in names.items() for part in (f"--{name}", str(output / file))]
    options += ["--settings", _settings(train_classifier, train_classifier=train)]
    if not warn_at:
        assert train_classifier.STEP.main(options) == 0
        return
    command = [sys.executable, "-m", "pipeline_steps.train_classifier", *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as ran:
        while ran.poll() is None and not warn_at.exists():
            time.sleep(0.005)
        os.killpg(ran.pid, signal.SIGTERM)  # its loader's workers too, as Slurm does
        _, told = ran.communicate(timeout=300)
    assert ran.returncode == 143, told


def test_labels_are_wrong_as_asked_and_the_truth_stands_beside_them(folder: Path, tmp_path: Path) -> None:
    report = _noise(folder, tmp_path)
    table = pq.read_table(tmp_path / "labels.parquet").to_pandas()
    truth = read_prepared(folder / "pets").splits["train"].labels
    assert table["clean_label"].tolist() == truth.tolist()
    assert report["wrong"] == pytest.approx(0.4)
    assert np.mean(table["label"] != table["clean_label"]) == pytest.approx(0.4)
    (run,) = runs_of("inject_label_noise")
    assert run.metrics["wrong"] == pytest.approx(0.4)


def test_a_subset_has_all_classes_alike_and_own_labels_have_no_truth(folder: Path, tmp_path: Path) -> None:
    report = _noise(folder, tmp_path, kind="own", pictures=20)
    table = pq.read_table(tmp_path / "labels.parquet").to_pandas()
    assert table["label"].value_counts().tolist() == [10, 10]
    assert table["clean_label"].isna().all()
    assert "wrong" not in report
    selection, found = _select(folder, tmp_path)
    assert "precision" not in found["selection"]
    assert len(selection) == 20


def test_a_file_of_noise_must_be_of_these_pictures(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    truth = read_prepared(folder / "pets").splits["train"].labels
    pa_csv.write_csv(pa.table({"label": truth, "label_noisy": 1 - truth}), tmp_path / "noise.csv")
    assert _noise(folder, tmp_path, kind="file", file=str(tmp_path / "noise.csv"))["wrong"] == 1
    for told, table in {
        "is of other pictures, or in another order": {"label": 1 - truth, "label_noisy": truth},
        "label_noisy is 2 in row 0 and no class in": {"label": truth, "label_noisy": truth + 2},
        "0 empty cells, and the others are double": {"label": truth, "label_noisy": truth + 0.7},
        "1 empty cells": {"label": truth, "label_noisy": [None, *truth[1:].tolist()]},
    }.items():
        pa_csv.write_csv(pa.table(table), tmp_path / "noise.csv")
        assert told in _refused_noise(folder, tmp_path, capfd, kind="file", file=str(tmp_path / "noise.csv"))


@pytest.mark.parametrize("pictures", [1, TRAIN - 1])
def test_a_number_of_pictures_that_classes_cannot_share_is_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, pictures: int
) -> None:
    told = _refused_noise(folder, tmp_path, capfd, pictures=pictures)
    assert f"inject_label_noise.pictures = {pictures} cannot be drawn of {TRAIN} pictures of 2 classes" in told
    assert "Traceback" not in told


def _refused_noise(folder: Path, output: Path, capfd: pytest.CaptureFixture, **noise: Any) -> str:
    options = ["--prepared", str(folder / "pets"), "--labels", str(output / "l"), "--report", str(output / "r")]
    settings = _settings(inject_label_noise, inject_label_noise=noise)
    assert inject_label_noise.STEP.main([*options, "--settings", settings]) == 1
    return str(capfd.readouterr().err)


@pytest.mark.parametrize("kind", ["asymmetric", "instance"])
def test_other_kinds_of_noise_come_through(folder: Path, tmp_path: Path, kind: str) -> None:
    transitions = {"cat": "dog"} if kind == "asymmetric" else None
    report = _noise(folder, tmp_path, kind=kind, fraction=0.5, transitions=transitions)
    by_class = report["wrong_by_true_class"]
    assert 0.1 < report["wrong"] < 0.7
    assert (by_class["dog"] == 0) == (kind == "asymmetric")


def test_a_selection_has_every_score_and_a_report_against_the_truth(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    table, report = _select(folder, tmp_path, agree=2)
    assert {"zeroshot_loss", "zeroshot_consistency", "regression_loss", "regression_consistency", "confidence"} <= {
        *table
    }
    picked = table["selected"].to_numpy()
    labels = pq.read_table(tmp_path / "labels.parquet").to_pandas()
    clean = (labels["label"] == labels["clean_label"]).to_numpy()
    assert report["selection"]["size"] == picked.sum()
    assert report["selection"]["precision"] == pytest.approx((picked & clean).sum() / picked.sum())
    assert report["selection"]["recall"] == pytest.approx((picked & clean).sum() / clean.sum())
    assert {row["size"] for row in report["at_equal_share"].values()} == {picked.sum()}
    assert sum(row["size"] for row in report["by_class"].values()) == picked.sum()
    assert set(report["auroc"]) == set(report["at_equal_share"])
    again, _ = _select(folder, tmp_path, agree=2)
    assert again.equals(table)


def test_a_temperature_of_its_own_changes_the_posterior_and_not_its_order(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    own, _ = _select(folder, tmp_path)
    fixed, _ = _select(folder, tmp_path, temperature=0.5)
    assert not np.allclose(own["zeroshot_consistency"], fixed["zeroshot_consistency"])
    assert (own["zeroshot_consistency"] == 1).equals(fixed["zeroshot_consistency"] == 1)


def test_folds_and_class_phrases_change_what_is_scored(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    own, _ = _select(folder, tmp_path)
    folds, _ = _select(folder, tmp_path, folds=3)
    assert not np.allclose(own["regression_consistency"], folds["regression_consistency"])
    phrases = tmp_path / "phrases.yaml"
    phrases.write_text("cat: [with whiskers, on a sofa]\ndog: [on a leash]\n")
    described, _ = _select(folder, tmp_path, class_features=str(phrases), prompt="a {c} {feature}.")
    for rule in ("zeroshot_consistency", "confidence"):  # which are compared at equal share, so of the same prompts
        assert not np.allclose(own[rule], described[rule])


def test_a_selection_of_nothing_is_an_error(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    _select(folder, tmp_path)
    table = pq.read_table(tmp_path / "selection.parquet")
    nothing = pa.array([False] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("selected"), "selected", nothing), tmp_path / "n")
    with pytest.raises(PipelineError, match="leaves none of"):
        starting_selection("selected", read_labels(tmp_path / "labels.parquet"), tmp_path / "n")


@pytest.mark.parametrize(
    ("change", "told"),
    [({"prompt": "a {c}."}, "has no {feature}"), ({"prompt": "a {c} {feature}."}, "has no list of phrases for dog")],
)
def test_phrases_that_do_not_fit_are_refused(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, change: dict[str, str], told: str
) -> None:
    _noise(folder, tmp_path)
    (tmp_path / "phrases.yaml").write_text("cat: [with whiskers]\n")
    with pytest.raises(AssertionError):
        _select(folder, tmp_path, class_features=str(tmp_path / "phrases.yaml"), **change)
    assert told in capfd.readouterr().err


def test_a_classifier_is_trained_on_it_and_both_stand_in_the_tables(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    _, report = _select(folder, tmp_path)
    _train(folder, tmp_path / "one")
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())
    predictions = pd.read_parquet(tmp_path / "one" / "p.parquet")
    assert scores["n"] == len(predictions) == TEST
    assert scores["accuracy"] == np.mean(predictions["label"] == predictions["prediction"])
    assert scores["first_selected"] == report["selection"]["size"]
    assert len(pd.read_parquet(tmp_path / "one" / "history.parquet")) == SMALL["epochs"]
    settings = json.dumps({"experiment": "test", "classifiers": ["clipcleaner"], "seeds": [0]})
    options = ["--selections", str(tmp_path / "report.json"), "--scores", str(tmp_path / "one" / "scores.json")]
    assert make_label_tables.STEP.main([*options, "--tables", str(tmp_path / "t"), "--settings", settings]) == 0
    text = (tmp_path / "t" / "README.md").read_text()
    assert f"{100 * scores['accuracy']:.1f}" in text
    rows = pd.read_csv(tmp_path / "t" / "selection.csv")
    assert rows[rows["which"].eq("selection")]["size"].tolist() == [report["selection"]["size"]]
    assert (tmp_path / "t" / "precision_recall.png").is_file()
    for name in (tmp_path / "t").iterdir():
        name.unlink()
    write_json(tmp_path / "one" / "scores.json", scores | {"labels": "all"})  # then that selection trained nothing
    assert make_label_tables.STEP.main([*options, "--tables", str(tmp_path / "t"), "--settings", settings]) == 0
    assert pd.read_csv(tmp_path / "t" / "selection.csv").empty
    assert "## Rules" not in (tmp_path / "t" / "README.md").read_text()


def test_a_classifier_told_to_end_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    _select(folder, tmp_path)
    _train(folder, tmp_path / "whole", epochs=3)
    whole = load_file(tmp_path / "whole" / "m.safetensors")
    for workers in (0, 1):
        output = tmp_path / f"parts{workers}"
        _train(folder, output, epochs=3, workers=workers, warn_at=output / "scores.json.resume.pt")
        _train(folder, output, epochs=3, workers=workers)
        parts = load_file(output / "m.safetensors")
        assert all(bool((parts[name] == tensor).all()) for name, tensor in whole.items())
        assert not list(output.glob("*.resume.pt"))


def test_bounds_train_on_all_labels_or_on_the_true_ones(folder: Path, tmp_path: Path) -> None:
    _noise(folder, tmp_path)
    _select(folder, tmp_path)
    sizes = {}
    for kind in ("all", "true"):
        _train(folder, tmp_path / kind, labels=kind, mixfix=False, epochs=1)
        sizes[kind] = json.loads((tmp_path / kind / "scores.json").read_text())["first_selected"]
    assert sizes == {"all": TRAIN, "true": round(0.6 * TRAIN)}
