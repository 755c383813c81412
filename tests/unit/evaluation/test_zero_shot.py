from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.zero_shot import evaluate_zero_shot, mean_per_class
from tests.oracles import ranking as oracle
from tests.results_tree import CLASSES, write_features


@pytest.fixture
def features(tmp_path: Path) -> FeatureFile:
    write_features(tmp_path / "f.safetensors", signal=0.4, datasets=("openclipart", "second"))
    return FeatureFile(tmp_path / "f.safetensors")


def test_scores_and_predictions_are_those_of_plain_loops(features: FeatureFile) -> None:
    found = evaluate_zero_shot(features, topk=(1, 5))
    for dataset in ("openclipart", "second"):
        image, label, row = features.labelled(dataset, "test")
        predictions, ranks = oracle.zero_shot(image, features.matrix(f"{dataset}/class_text"), label)
        outcomes = found.outcomes[found.outcomes["dataset"] == dataset]
        assert outcomes["prediction"].tolist() == predictions
        assert outcomes["rank"].tolist() == ranks
        assert outcomes["row"].tolist() == row.tolist()
        scores = found.scores[dataset]
        assert scores["top1"] == pytest.approx(np.mean([p == t for p, t in zip(predictions, label, strict=True)]))
        assert scores["top5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
        assert scores["mean_per_class"] == pytest.approx(oracle.mean_per_class(predictions, label.tolist()))
        assert (scores["n"], scores["classes"], scores["split"]) == (len(label), CLASSES, "test")
        assert (scores["chance_top1"], scores["chance_top5"]) == (1 / CLASSES, 5 / CLASSES)
        assert scores["label_hash"] == f"hash-of-{dataset}"


def test_scores_agree_with_scikit_learn(features: FeatureFile) -> None:
    scores = evaluate_zero_shot(features, topk=(3,)).scores["openclipart"]
    image, label, _ = features.labelled("openclipart", "test")
    similarity = image @ features.matrix("openclipart/class_text").T
    assert scores["top3"] == pytest.approx(top_k_accuracy_score(label, similarity, k=3, labels=range(CLASSES)))
    assert scores["mean_per_class"] == pytest.approx(balanced_accuracy_score(label, similarity.argmax(axis=1)))
    assert "top1" in scores


def test_mean_per_class_ignores_classes_without_pictures() -> None:
    label, prediction = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    assert mean_per_class(label, prediction) == pytest.approx((2 / 3 + 1) / 2)


def test_k_above_the_number_of_classes_is_refused(features: FeatureFile) -> None:
    with pytest.raises(PipelineError, match=rf"topk asks for top-50 of \w+, which has {CLASSES} classes"):
        evaluate_zero_shot(features, topk=(1, 50))
