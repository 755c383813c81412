from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.eval_retrieval import STEP
from tests.results_tree import write_features
from tests.unit.step_runs import command, runs_of


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def test_scores_ranks_and_the_record_tell_the_same(tmp_path: Path) -> None:
    features, scores, ranks = (tmp_path / name for name in ("f.json", "s.json", "r.parquet"))
    write_features(features, signal=0.4)
    assert command(STEP, features=features, scores=scores, ranks=ranks) == 0
    written = json.loads(scores.read_text())["openclipart"]
    outcomes = pd.read_parquet(ranks)
    assert list(outcomes.columns) == ["dataset", "direction", "query", "image", "rank"]
    to_text = outcomes.loc[outcomes["direction"] == "image_to_text", "rank"]
    assert written["image_to_text_recall@5"] == pytest.approx((to_text <= 5).mean())
    (run,) = runs_of("eval_retrieval")
    assert run.metrics["retrieval/openclipart/image_to_text_recall_at_5"] == pytest.approx((to_text <= 5).mean())


def test_a_torn_features_file_fails_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = tmp_path / "f.json"
    write_features(features, signal=0.4)
    features.write_bytes(features.read_bytes()[:-100])
    assert command(STEP, features=features, scores=tmp_path / "s.json", ranks=tmp_path / "r.parquet") == 1
    assert "is not what it should be" in capsys.readouterr().err
