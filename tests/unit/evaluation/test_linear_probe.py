from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.linear_probe import choose_inverse_l2, evaluate_probe, fit_probe
from tests.oracles import probe as oracle
from tests.oracles import ranking as plain
from tests.results_tree import CLASSES, PROBE, unit, write_features


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.fixture
def features(tmp_path: Path) -> FeatureFile:
    write_features(tmp_path / "f.safetensors", signal=0.5)
    return FeatureFile(tmp_path / "f.safetensors")


def _clusters(count: int, classes: int, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    label = np.arange(count) % classes
    return unit(random.normal(size=(classes, width))[label] + random.normal(size=(count, width))), label


@pytest.mark.parametrize("inverse_l2", [0.1, 1.0, 30.0])
def test_the_fit_is_the_optimum_of_the_stated_objective(inverse_l2: float) -> None:
    image, label = _clusters(60, 3)
    probe = fit_probe(image, label, inverse_l2, 1000)
    double = image.astype(np.float64)
    reached = oracle.objective(probe.model.coef_, probe.model.intercept_, double, label, inverse_l2)
    least = oracle.optimum(double, label, inverse_l2)
    assert probe.converged
    assert reached == pytest.approx(least, rel=1e-6)


def test_scores_are_those_of_the_predictions(features: FeatureFile) -> None:
    found = evaluate_probe(features, PROBE, seed=0)
    scores, outcomes = found.scores["openclipart"], found.outcomes
    predictions, label = outcomes["prediction"].tolist(), outcomes["label"].tolist()
    assert scores["accuracy"] == pytest.approx(np.mean(outcomes["prediction"] == outcomes["label"]))
    assert scores["mean_per_class"] == pytest.approx(plain.mean_per_class(predictions, label))
    assert scores["accuracy"] > 2 * scores["chance_accuracy"]
    assert scores["inverse_l2"] in PROBE.inverse_l2
    assert scores["converged"] is True
    assert (scores["n_train"], scores["n"], scores["classes"]) == (128, 96, CLASSES)


def test_the_test_split_takes_no_part_in_the_choice(features: FeatureFile, tmp_path: Path) -> None:
    tensors = load_file(features.path)
    label = tensors["openclipart/test/label"]
    tensors["openclipart/test/label"] = np.where(label < 0, -1, (label + 1) % CLASSES)
    metadata = {"openclipart/classes": str(list(range(CLASSES)))}
    save_file(tensors, tmp_path / "other.safetensors", metadata=metadata)
    many = EvalProbeConfig(inverse_l2=(0.001, 0.1, 1.0, 100.0), validation_fraction=0.25, max_iterations=500)
    here = evaluate_probe(features, many, seed=0)
    there = evaluate_probe(FeatureFile(tmp_path / "other.safetensors"), many, seed=0)
    assert here.scores["openclipart"]["inverse_l2"] == there.scores["openclipart"]["inverse_l2"]
    assert here.outcomes["prediction"].tolist() == there.outcomes["prediction"].tolist()
    assert here.scores["openclipart"]["accuracy"] != there.scores["openclipart"]["accuracy"]


def test_the_choice_is_seeded_and_of_equals_the_strongest_regularisation_wins() -> None:
    image = np.repeat(unit(np.eye(3)), 12, axis=0)
    label = np.repeat(np.arange(3), 12)
    settings = EvalProbeConfig(inverse_l2=(100.0, 1.0, 10.0), validation_fraction=0.25, max_iterations=500)
    assert choose_inverse_l2(image, label, settings, seed=0) == 1.0
    noisy, labels = _clusters(80, 4)
    assert choose_inverse_l2(noisy, labels, settings, seed=7) == choose_inverse_l2(noisy, labels, settings, seed=7)


def test_a_class_with_one_picture_is_fitted_and_never_held_out() -> None:
    image, label = _clusters(61, 3)
    label[-1] = 3
    assert choose_inverse_l2(image, label, PROBE, seed=0) in PROBE.inverse_l2


def test_a_fit_that_stops_early_says_so() -> None:
    image, label = _clusters(60, 3)
    assert not fit_probe(image, label, 1000.0, 2).converged


def test_splits_that_cannot_be_made_are_refused() -> None:
    image, label = _clusters(40, 20)
    few = EvalProbeConfig(inverse_l2=(1.0,), validation_fraction=0.1, max_iterations=10)
    with pytest.raises(PipelineError, match=r"40 training pictures of 20 classes.*validation_fraction = 0\.1"):
        choose_inverse_l2(image, label, few, seed=0)
    with pytest.raises(PipelineError, match="holds 1 class and at least two are needed"):
        choose_inverse_l2(image, np.zeros(40, dtype=np.int64), few, seed=0)
