from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.core.methods import CLASSIFIER, METHODS, REFERENCE
from pipeline_steps.methods import baseline_objective
from tests.unit.paths import CONFIG, REPOSITORY

RAW = read_yaml([CONFIG])
BOTH_PHASES = ("learn_prompt", "unlearn")
# What a row changes against `ncu`, key by key.
DIFFERENCES: dict[str, dict[str, Any]] = {
    "ncu": {},
    "ncu_v1": {f"{phase}.negative_text.source": "prefix" for phase in BOTH_PHASES},
    "ncu_v2": {f"{phase}.separation.kind": "l2" for phase in BOTH_PHASES},
    "ncu_v3": {"unlearn.realign": "false_negatives"},
    "ncu_v4": {"unlearn.realign": "false_positives"},
    "ncu_no_transport": {"unlearn.gamma": 0.0},
    "ncu_random_forget_set": {f"{phase}.forget_set.selection": "random" for phase in BOTH_PHASES},
    "ncu_random_negative": {f"{phase}.negative_text.source": "random_caption" for phase in BOTH_PHASES},
    "ncu_p05": {f"{phase}.forget_set.fraction": 0.05 for phase in BOTH_PHASES},
    "ncu_p20": {f"{phase}.forget_set.fraction": 0.2 for phase in BOTH_PHASES},
    "ncu_p30": {f"{phase}.forget_set.fraction": 0.3 for phase in BOTH_PHASES},
    "ncu_p40": {f"{phase}.forget_set.fraction": 0.4 for phase in BOTH_PHASES},
    "ncu_gamma30": {"unlearn.gamma": 0.3},
    "ncu_gamma50": {"unlearn.gamma": 0.5},
    "ncu_gamma90": {"unlearn.gamma": 0.9},
    "ncu_500k": {f"{phase}.training.pairs": 500_000 for phase in BOTH_PHASES},
    "ncu_1000k": {f"{phase}.training.pairs": 1_000_000 for phase in BOTH_PHASES},
    "ncu_1500k": {f"{phase}.training.pairs": 1_500_000 for phase in BOTH_PHASES},
    "ncu_2000k": {f"{phase}.training.pairs": 2_000_000 for phase in BOTH_PHASES},
    "ncu_2500k": {f"{phase}.training.pairs": 2_500_000 for phase in BOTH_PHASES},
    "ncu_small_loss": {f"{phase}.forget_set.selection": "small_loss" for phase in BOTH_PHASES},
    "ncu_consistency": {f"{phase}.forget_set.selection": "consistency" for phase in BOTH_PHASES},
}
# The same of a classifier against `clipcleaner`.
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "clipcleaner": {},
    "all_labels": {"train_classifier.labels": "all", "train_classifier.mixfix": False},
    "true_labels": {"train_classifier.labels": "true", "train_classifier.mixfix": False},
    **{
        f"{rule}_labels": {"select_clean.rules": (rule,), "select_clean.agree": 1, "select_clean.share": 0.5}
        for rule in ("zeroshot_loss", "zeroshot_consistency", "confidence")
    },
}
BASELINES = [name for name, row in METHODS.items() if row.stage == "train_baseline"]


@pytest.mark.parametrize("method", DIFFERENCES)
def test_a_row_of_ncu_differs_from_it_in_exactly_the_keys_it_names(method: str) -> None:
    ncu, own = _leaves(load_config(RAW, "ncu")), _leaves(load_config(RAW, method))
    assert own.keys() == ncu.keys()
    assert {key: value for key, value in own.items() if value != ncu[key]} == DIFFERENCES[method]


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_classifier_differs_from_clipcleaner_in_exactly_the_keys_it_names(method: str) -> None:
    first, own = _leaves(load_config(RAW, "clipcleaner")), _leaves(load_config(RAW, method))
    assert {key: value for key, value in own.items() if value != first[key]} == CLASSIFIERS[method]


@pytest.mark.parametrize("method", [REFERENCE, "npc", "clipcleaner", *BASELINES])
def test_the_reference_and_the_baselines_have_the_configuration_as_it_is(method: str) -> None:
    assert load_config(RAW, method) == load_config(RAW)


def test_the_table_holds_nothing_else() -> None:
    assert METHODS.keys() == {REFERENCE, *BASELINES, *DIFFERENCES, "npc", *CLASSIFIERS}
    assert {"continued", "gradient_ascent", "softclip", "filter_continue"} == set(BASELINES)
    assert all(METHODS[method].stage == "unlearn" for method in DIFFERENCES)
    assert all(METHODS[method].stage == CLASSIFIER for method in CLASSIFIERS)
    assert len({row.title for row in METHODS.values()}) == len(METHODS)
    for row in METHODS.values():
        assert (REPOSITORY / "pipeline_steps" / f"{row.stage}.py").is_file()


@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_has_its_file(method: str) -> None:
    objective = baseline_objective(method, load_config(RAW).train_baseline)
    assert type(objective).__module__ == f"pipeline_steps.methods.{method}"
    assert not objective.needs_negatives


def _leaves(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{prefix}.{name}" if prefix else name)
        else:
            found[prefix] = value

    walk(msgspec.to_builtins(value), "")
    return found
