from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.scores import (
    Evaluation,
    evaluation_of,
    holes_of,
    measures,
    mlflow_names,
    without_holes,
)

SCORES = {"clip-art": {"text_to_image_recall@5": 0.25, "chance_text_to_image_recall@5": 0.1, "n": 7, "split": "test"}}


def test_measures_are_the_entries_with_a_chance_level() -> None:
    assert measures(SCORES["clip-art"]) == {"text_to_image_recall@5": 0.25}


def test_mlflow_names_hold_only_what_mlflow_allows() -> None:
    names = mlflow_names("retrieval", SCORES)
    assert names == {"retrieval/clip-art/text_to_image_recall_at_5": 0.25}
    assert all(re.fullmatch(r"[\w\-. /]+", name) for name in names)


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    outcomes = pd.DataFrame({"dataset": ["clip-art"], "rank": [3]})
    Evaluation(SCORES, outcomes).write(tmp_path / "deep" / "scores.json", tmp_path / "deep" / "ranks.parquet")
    assert json.loads((tmp_path / "deep" / "scores.json").read_text()) == SCORES
    assert pd.read_parquet(tmp_path / "deep" / "ranks.parquet").equals(outcomes)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["ranks.parquet", "scores.json"]


def test_holes_stand_beside_scores_and_are_no_measures() -> None:
    outcomes = pd.DataFrame({"rank": [3], "dataset": ["clip-art"], "spare": [0]})
    found = evaluation_of(SCORES, [outcomes], ["dataset", "rank"], {"cars": "the link is dead"})
    assert found.scores == SCORES | {"cars": {"hole": "the link is dead"}}
    assert holes_of(found.scores) == {"cars": "the link is dead"}
    assert without_holes(found.scores) == SCORES
    assert mlflow_names("zero_shot", found.scores).keys() == {"zero_shot/clip-art/text_to_image_recall_at_5"}
    assert list(found.outcomes.columns) == ["dataset", "rank"]


def test_scores_that_are_not_finite_are_named_and_not_written(tmp_path: Path) -> None:
    scores = {"clip-art": {"accuracy": float("nan"), "top5": float("inf"), "n": 7, "split": "test"}}
    with pytest.raises(PipelineError, match="these scores are not finite: clip-art accuracy, clip-art top5"):
        Evaluation(scores, pd.DataFrame({"rank": [3]})).write(tmp_path / "s.json", tmp_path / "r.parquet")
    assert not list(tmp_path.iterdir())
