from __future__ import annotations

import pytest

from pipeline_steps.core.config import ConfigError, load_config, merged, read_yaml, resolve
from pipeline_steps.core.study import experiments_of, places_on_axis
from tests.unit.paths import CONFIG

RAW = read_yaml([CONFIG])
NOISE = {
    "a": {"build_manifest": {"noise": {"fraction": 0.0}}},
    "b": {"build_manifest": {"noise": {"fraction": 0.6, "seed": 3}}},
    "c": {"train_reference": {"training": {"epochs": 2}}},
}


def _study(over: object, **study: object) -> dict[str, object]:
    return merged(RAW, {"compare_experiments": {"over": over, **study}})


def test_without_a_study_there_is_the_experiment_itself() -> None:
    assert experiments_of(RAW) == {"demo": RAW}


def test_every_entry_is_an_experiment_of_its_own() -> None:
    found = {name: load_config(raw) for name, raw in experiments_of(_study(NOISE)).items()}
    assert list(found) == ["demo_a", "demo_b", "demo_c"]
    assert [one.experiment for one in found.values()] == list(found)
    noise = [one.build_manifest.noise for one in found.values()]
    assert [(one.fraction, one.seed) for one in noise] == [(0.0, 0), (0.6, 3), (0.3, 0)]
    assert found["demo_c"].train_reference.training.epochs == 2


def test_places_are_the_numbers_at_the_axis() -> None:
    assert places_on_axis(resolve(_study(NOISE))) == {"a": 0.0, "b": 0.6, "c": 0.3}
    epochs = _study(NOISE, axis="train_reference.training.epochs")
    assert places_on_axis(resolve(epochs)) == {"a": 16, "b": 16, "c": 2}


def test_all_errors_come_at_once_under_their_names() -> None:
    wrong = {"a": {"build_manifest": {"noise": {"fraction": 7}}}, "b": {"seeds": [1]}, "c": {}}
    with pytest.raises(ConfigError) as error:
        experiments_of(_study(wrong))
    first, second = error.value.problems
    assert first.startswith("compare_experiments.over.a: build_manifest.noise.fraction = 7")
    assert second.startswith("compare_experiments.over.b: seeds is the same in all of a study; allowed: build_manifest")


@pytest.mark.parametrize("axis", ["build_manifest.noise", "build_manifest.nois.fraction", "model.architecture"])
def test_an_axis_without_a_number_is_refused(axis: str) -> None:
    with pytest.raises(ConfigError, match="and no number"):
        experiments_of(_study(NOISE, axis=axis))
