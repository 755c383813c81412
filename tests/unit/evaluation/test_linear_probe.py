from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import StrengthsConfig
from pipeline_steps.evaluation.features.index import Features, SetFacts, SplitFacts
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, Part
from pipeline_steps.evaluation.linear_probe import divided, evaluate_probe, fit_probe
from pipeline_steps.evaluation.scores import EVALUATOR_VERSION, measures
from tests.feature_tree import write_index
from tests.oracles import probe as oracle
from tests.oracles import ranking as plain
from tests.real_features import bundled_pictures
from tests.results_tree import CLASSES, PROBE, MadeSet, write_features

ONE_STRENGTH = replace(PROBE, inverse_l2=StrengthsConfig(lowest=3.0, highest=3.0, per_decade=1, start=1))
SIZES = {"train": 500, "validation": 200, "test": 300}


@pytest.fixture
def features(tmp_path: Path) -> Features:
    write_features(tmp_path / "features.json", signal=0.5)
    return Features(tmp_path / "features.json")


def clipart(
    folder: Path,
    splits: tuple[str, ...] = ("train", "validation", "test"),
    taps: tuple[str, ...] = ("image", "penultimate"),
    **labels: np.ndarray,
) -> tuple[Features, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Bundled pictures as a set with these splits, its images and labels; some labels given instead."""
    image, label = bundled_pictures(24, 1000)
    ends = np.cumsum([SIZES[split] for split in SIZES])
    images = dict(zip(SIZES, np.split(image, ends)[:3], strict=True))
    own = dict(zip(SIZES, np.split(label, ends)[:3], strict=True)) | labels
    tensors = {}
    for split in splits:
        of_tap = {"image": images[split], "penultimate": images[split][:, :9] + 1}
        tensors |= {f"clipart/{split}/{tap}": of_tap[tap] for tap in taps}
        tensors[f"clipart/{split}/label"] = own[split]
    facts = SetFacts(
        title="Clip art", tasks=("classification",), metric="accuracy", source="test", evaluator=EVALUATOR_VERSION,
        classes=tuple("abcdefgh"),
        splits={split: SplitFacts(f"{split} of it", SIZES[split], "hash") for split in splits},
    )  # fmt: skip
    write_index(folder / "features.json", tensors, {"clipart": facts})
    return Features(folder / "features.json"), images, own


def test_scores_are_those_of_the_predictions(features: Features) -> None:
    found = evaluate_probe(features, PROBE, seed=0)
    scores, outcomes = found.scores["openclipart"], found.outcomes
    predictions, label = outcomes["prediction"].tolist(), outcomes["label"].tolist()
    assert list(outcomes.columns) == ["dataset", "row", "label", "prediction", "rank"]
    assert scores["accuracy"] == pytest.approx(np.mean(outcomes["prediction"] == outcomes["label"]))
    assert scores["accuracy"] == pytest.approx(np.mean(outcomes["rank"] == 1))
    assert scores["top5"] == pytest.approx(np.mean(outcomes["rank"] <= 5))
    assert scores["mean_per_class"] == pytest.approx(plain.mean_per_class(predictions, label))
    assert scores["accuracy"] > 2 * scores["chance_accuracy"]
    assert set(measures(scores)) == {"accuracy", "top5", "mean_per_class"}
    assert (scores["n_train"], scores["n"], scores["classes"]) == (128, 96, CLASSES)
    assert scores["converged"] is True
    assert scores["sweep_unconverged"] == 0
    assert scores["validation"] == "0.25 of train"
    tried = dict(pair.split(": ") for pair in scores["sweep"].split(", "))
    assert list(tried) == ["0.1", "1", "10"]
    assert float(tried[f"{scores['inverse_l2']:g}"]) == max(map(float, tried.values()))
    assert scores["split"] == "test"


def test_the_test_split_takes_no_part_in_the_choice(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here, _, own = clipart(tmp_path)
    there, _, _ = clipart(tmp_path / "other", test=(own["test"] + 1) % 8)
    left, right = (evaluate_probe(one, PROBE, seed=0) for one in (here, there))
    for entry in ("inverse_l2", "sweep", "iterations"):
        assert left.scores["clipart"][entry] == right.scores["clipart"][entry]
    assert left.outcomes["prediction"].tolist() == right.outcomes["prediction"].tolist()
    assert left.scores["clipart"]["accuracy"] != right.scores["clipart"]["accuracy"]


@pytest.mark.parametrize(("tap", "normalize"), [("projected", True), ("penultimate", False)])
def test_with_a_validation_split_the_probe_is_fitted_on_it_and_train(tmp_path: Path, tap: str, normalize: bool) -> None:
    features, images, own = clipart(tmp_path)
    settings = replace(PROBE, tap=tap, normalize=normalize)
    probe = fit_probe(features, "clipart", settings, seed=0)
    image = np.concatenate([images["train"], images["validation"]]).astype(np.float64)
    image = image if tap == "projected" else image[:, :9] + 1
    image = image / np.linalg.norm(image, axis=1, keepdims=True) if normalize else image
    label = np.concatenate([own["train"], own["validation"]])
    assert probe.validation == "validation of it"
    assert probe.solution.objective == pytest.approx(oracle.optimum(image, label, probe.solution.inverse_l2), rel=1e-6)
    chosen = oracle.fitted(image[:500], label[:500], probe.solution.inverse_l2)
    assert probe.sweep is not None
    accuracy = probe.sweep.accuracy[probe.solution.inverse_l2]
    assert accuracy == pytest.approx(chosen.score(image[500:], label[500:]), abs=1.1 / 200)
    scores = evaluate_probe(features, settings, seed=0).scores["clipart"]
    assert (scores["n_train"], scores["tap"], scores["normalize"]) == (700, tap, normalize)


def test_the_validation_split_counts_where_only_the_penultimate_features_are_there(tmp_path: Path) -> None:
    features, _, _ = clipart(tmp_path, taps=("penultimate",))
    probe = fit_probe(features, "clipart", replace(PROBE, tap="penultimate"), seed=0)
    assert probe.validation == "validation of it"


def test_the_choice_is_seeded(tmp_path: Path) -> None:
    features, _, _ = clipart(tmp_path, ("train", "test"))
    settings = replace(PROBE, inverse_l2=StrengthsConfig(lowest=1e-2, highest=1e4, per_decade=4, start=7))
    first, again, other = (fit_probe(features, "clipart", settings, seed=seed) for seed in (7, 7, 8))
    assert first.sweep is not None
    assert again.sweep is not None
    assert other.sweep is not None
    assert first.sweep.accuracy == again.sweep.accuracy
    assert first.sweep.accuracy != other.sweep.accuracy


def test_one_strength_needs_no_choice(tmp_path: Path) -> None:
    features, _, _ = clipart(tmp_path, ("train", "test"))
    probe = fit_probe(features, "clipart", ONE_STRENGTH, seed=0)
    assert probe.sweep is None
    assert probe.solution.inverse_l2 == 3.0
    scores = evaluate_probe(features, ONE_STRENGTH, seed=0).scores["clipart"]
    assert (scores["validation"], scores["sweep"]) == ("none: one strength", "")


def test_a_class_absent_from_train_is_never_predicted_and_counts_as_wrong(tmp_path: Path) -> None:
    _, _, own = clipart(tmp_path)
    train = np.where(own["train"] == 2, -1, own["train"])
    features, _, _ = clipart(tmp_path, ("train", "test"), train=train)
    found = evaluate_probe(features, PROBE, seed=0)
    assert found.scores["clipart"]["classes"] == 7
    assert (found.outcomes["prediction"] != 2).all()
    assert (found.outcomes.loc[found.outcomes["label"] == 2, "rank"] == 8).all()


def test_a_share_is_stratified_and_leaves_lone_rows_and_rows_without_class() -> None:
    label = np.array([0] * 40 + [1] * 20 + [-1] * 10 + [2])
    fitted, held_out = divided(Part(ArrayMatrix(np.zeros((71, 2))), label), 0.25, seed=3)
    assert np.bincount(held_out.label[held_out.label >= 0]).tolist() == [10, 5]
    assert np.bincount(fitted.label[fitted.label >= 0]).tolist() == [30, 15, 1]
    assert ((fitted.label >= 0) ^ (held_out.label >= 0)).tolist() == (label >= 0).tolist()


def test_splits_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    features, _, own = clipart(tmp_path, ("train", "test"))
    few = replace(PROBE, validation_fraction=0.01)
    with pytest.raises(PipelineError, match=r"500 training pictures of 8 classes.*validation_fraction = 0\.01"):
        fit_probe(features, "clipart", few, seed=0)
    features, _, _ = clipart(tmp_path, ("train", "test"), train=np.where(own["train"] == 2, 2, -1))
    with pytest.raises(PipelineError, match="holds 1 class, and a probe needs two"):
        fit_probe(features, "clipart", PROBE, seed=0)
    with pytest.raises(PipelineError, match=r"no class has two training pictures.*inverse_l2: lowest = highest"):
        divided(Part(ArrayMatrix(np.zeros((3, 2))), np.arange(3)), 0.25, seed=0)


def test_a_set_that_no_probe_fits_is_a_hole_that_says_why(tmp_path: Path) -> None:
    train = np.full(500, -1)
    train[:8] = np.arange(8)
    features, _, _ = clipart(tmp_path, ("train", "test"), train=train)
    found = evaluate_probe(features, PROBE, seed=0)
    assert "no class has two training pictures" in str(found.scores["clipart"]["hole"])
    assert found.outcomes.empty


def test_holes_stand_beside_the_scores(tmp_path: Path) -> None:
    missing = MadeSet("cars", hole="its page is gone")
    write_features(tmp_path / "features.json", signal=0.5, datasets=["openclipart", missing])
    found = evaluate_probe(Features(tmp_path / "features.json"), PROBE, seed=0)
    assert found.scores["cars"] == {"hole": "its page is gone"}
    assert "accuracy" in found.scores["openclipart"]
    write_features(tmp_path / "features.json", signal=0.5, datasets=[missing])
    alone = evaluate_probe(Features(tmp_path / "features.json"), PROBE, seed=0)
    assert alone.scores == {"cars": {"hole": "its page is gone"}}
    assert alone.outcomes.empty
