from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline_steps.eval_zeroshot import STEP
from pipeline_steps.evaluation.features.index import SetFacts
from tests.feature_tree import write_index
from tests.results_tree import write_features
from tests.unit.step_runs import command, runs_of


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def test_scores_predictions_and_the_record_tell_the_same(tmp_path: Path) -> None:
    features, scores, predictions = (tmp_path / name for name in ("f.json", "s.json", "p.parquet"))
    write_features(features, signal=0.4)
    assert command(STEP, features=features, scores=scores, predictions=predictions) == 0
    written = json.loads(scores.read_text())["openclipart"]
    outcomes = pd.read_parquet(predictions)
    assert list(outcomes.columns) == ["dataset", "row", "label", "prediction", "rank"]
    assert written["top1"] == pytest.approx((outcomes["rank"] == 1).mean())
    (run,) = runs_of("eval_zeroshot")
    assert run.status == "FINISHED"
    assert run.metrics["zero_shot/openclipart/top5"] == pytest.approx(written["top5"])
    assert set(run.files) == {"s.json"}


def test_a_set_that_could_not_be_had_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features, scores, predictions = (tmp_path / name for name in ("f.json", "s.json", "p.parquet"))
    facts = SetFacts("Cars", ("classification",), "accuracy", None, "1", hole="the link is dead")
    write_index(features, {"a/test/image": np.eye(2)}, {"cars": facts})
    assert command(STEP, features=features, scores=scores, predictions=predictions) == 0
    assert json.loads(scores.read_text()) == {"cars": {"hole": "the link is dead"}}
    assert pd.read_parquet(predictions).empty
    assert "cars has no score: the link is dead" in capsys.readouterr().err


def test_a_cache_without_the_embeddings_fails_in_words_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, scores, predictions = (tmp_path / name for name in ("f.json", "s.json", "p.parquet"))
    write_features(features, signal=0.4)
    shutil.rmtree(tmp_path / "f.cache")
    assert command(STEP, features=features, scores=scores, predictions=predictions) == 1
    assert "is gone. Delete this index and run extract_features" in capsys.readouterr().err
    assert not scores.exists()
    assert not predictions.exists()
    assert [run.status for run in runs_of("eval_zeroshot")] == ["FAILED"]
