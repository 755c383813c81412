from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features, SetFacts, SplitFacts
from pipeline_steps.evaluation.scores import measures
from pipeline_steps.evaluation.zero_shot import evaluate_zero_shot, mean_per_class
from tests.feature_tree import write_index
from tests.oracles import ranking as oracle
from tests.results_tree import CLASSES, unit, write_features


@pytest.fixture
def features(tmp_path: Path) -> Features:
    write_features(tmp_path / "f.json", signal=0.4, datasets=("openclipart", "second"))
    return Features(tmp_path / "f.json")


def test_scores_and_predictions_are_those_of_plain_loops(features: Features) -> None:
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


def test_scores_agree_with_scikit_learn(features: Features) -> None:
    scores = evaluate_zero_shot(features, topk=(3,)).scores["openclipart"]
    image, label, _ = features.labelled("openclipart", "test")
    similarity = image @ features.matrix("openclipart/class_text").T
    assert scores["top3"] == pytest.approx(top_k_accuracy_score(label, similarity, k=3, labels=range(CLASSES)))
    assert scores["mean_per_class"] == pytest.approx(balanced_accuracy_score(label, similarity.argmax(axis=1)))
    assert "top1" in scores


def test_mean_per_class_ignores_classes_without_pictures() -> None:
    label, prediction = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    assert mean_per_class(label, prediction) == pytest.approx((2 / 3 + 1) / 2)


def test_a_k_above_a_sets_classes_is_left_out_for_that_set(tmp_path: Path) -> None:
    texts, image = unit(np.eye(6)[:2]), unit(np.random.default_rng(0).normal(size=(9, 6)))
    many = unit(np.random.default_rng(1).normal(size=(7, 6)))
    tensors, facts = {}, {}
    for name, classes in (("two", texts), ("seven", many)):
        tensors |= {f"{name}/test/image": image, f"{name}/test/label": np.arange(9) % 2, f"{name}/class_text": classes}
        words = tuple(f"class {number}" for number in range(len(classes)))
        split = {"test": SplitFacts("val", 9, "ab")}
        facts[name] = SetFacts(name, ("classification",), "accuracy", "made: here", "1", classes=words, splits=split)
    write_index(tmp_path / "f.json", tensors, facts)
    scores = evaluate_zero_shot(Features(tmp_path / "f.json"), topk=(1, 5)).scores
    assert set(measures(scores["two"])) == {"top1", "mean_per_class"}
    assert set(measures(scores["seven"])) == {"top1", "top5", "mean_per_class"}
    assert {"split": "val", "n": 9, "n_split": 9, "classes": 2, "metric": "accuracy", "label_hash": "ab",
            "evaluator": "1", "source": "made: here", "title": "two"}.items() <= scores["two"].items()  # fmt: skip


def test_a_set_that_could_not_be_had_is_a_hole_and_nothing_else(tmp_path: Path) -> None:
    hole = SetFacts("Cars", ("classification",), "accuracy", None, "1", hole="the link is dead")
    write_index(tmp_path / "f.json", {"a/test/image": np.eye(2)}, {"cars": hole})
    found = evaluate_zero_shot(Features(tmp_path / "f.json"), topk=(1, 5))
    assert found.scores == {"cars": {"hole": "the link is dead"}}
    assert found.outcomes.empty
    assert list(found.outcomes.columns) == ["dataset", "row", "label", "prediction", "rank"]
    found.write(tmp_path / "scores.json", tmp_path / "outcomes.parquet")
    assert list(pd.read_parquet(tmp_path / "outcomes.parquet").columns) == list(found.outcomes.columns)


def test_names_and_embeddings_of_classes_must_agree(tmp_path: Path) -> None:
    facts = SetFacts("A", ("classification",), "accuracy", None, "1", classes=("x", "y"),
                     splits={"test": SplitFacts("test", 2, "")})  # fmt: skip
    tensors = {"a/test/image": np.eye(3)[:2], "a/test/label": np.arange(2), "a/class_text": np.eye(3)}
    write_index(tmp_path / "f.json", tensors, {"a": facts})
    with pytest.raises(PipelineError, match="a has 2 class names and 3 class embeddings"):
        evaluate_zero_shot(Features(tmp_path / "f.json"), topk=(1,))
