from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.eval_probe import STEP
from tests.results_tree import SETTINGS, MadeSet, write_features
from tests.unit.step_runs import command, runs_of


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def test_scores_predictions_and_the_record_tell_the_same_and_a_stopped_fit_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, scores, predictions = (tmp_path / name for name in ("f.json", "s.json", "p.parquet"))
    write_features(features, signal=0.4)
    strength = {"lowest": 500.0, "highest": 500.0, "per_decade": 1, "start": 1}
    settings = {"eval_probe": {**SETTINGS["eval_probe"], "inverse_l2": strength, "max_iterations": 3}}
    assert command(STEP, settings=settings, features=features, scores=scores, predictions=predictions) == 0
    written = json.loads(scores.read_text())["openclipart"]
    outcomes = pd.read_parquet(predictions)
    assert list(outcomes.columns) == ["dataset", "row", "label", "prediction", "rank"]
    assert written["accuracy"] == pytest.approx((outcomes["prediction"] == outcomes["label"]).mean())
    assert written["converged"] is False
    warning = capsys.readouterr().err
    assert "eval_probe.max_iterations" in warning
    assert "eval_probe.inverse_l2.highest" in warning
    (run,) = runs_of("eval_probe")
    assert run.metrics["linear_probe/openclipart/accuracy"] == pytest.approx(written["accuracy"])
    assert run.metrics["linear_probe/openclipart/top5"] == pytest.approx(written["top5"])


def test_a_probe_that_converged_and_a_hole_are_told_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, scores, predictions = (tmp_path / name for name in ("f.json", "s.json", "p.parquet"))
    write_features(features, signal=0.4, datasets=["openclipart", MadeSet("cars", hole="its page is gone")])
    assert command(STEP, features=features, scores=scores, predictions=predictions) == 0
    written = json.loads(scores.read_text())
    assert written["cars"] == {"hole": "its page is gone"}
    assert written["openclipart"]["converged"] is True
    said = capsys.readouterr().err
    assert "cars has no score: its page is gone" in said
    assert "before it converged" not in said
