from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sklearn.mixture import GaussianMixture

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import SelectCleanConfig
from pipeline_steps.methods.clipcleaner.selection import (
    fill_empty_classes,
    mixture_probability,
    scaled_in_class,
    select,
    top_share,
)
from tests.oracles import clipcleaner as oracle
from tests.unit.training.tiny import RAW

SETTINGS = load_section(RAW, "select_clean", SelectCleanConfig)
RULES = SETTINGS.rules


def _two_humps(per_hump: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(-6, 0.5, per_hump), random.normal(-1, 0.3, per_hump)])


def test_scores_are_scaled_within_their_class() -> None:
    random = np.random.default_rng(0)
    score, label = random.normal(size=30), np.repeat([0, 1, 2], 10)
    order = random.permutation(30)
    found = scaled_in_class(score[order], label[order])
    assert found.tolist() == pytest.approx(oracle.scaled(score[order].tolist(), label[order].tolist()))


def test_the_mixture_of_each_class_is_scikit_learns() -> None:
    label = np.tile([0, 1], 60)
    score = np.empty(120)
    score[0::2], score[1::2] = _two_humps(30, 1), _two_humps(30, 2) - 20
    scaled = scaled_in_class(score, label)
    found = mixture_probability(scaled, label, SETTINGS, 5)
    for one in (0, 1):
        rows = np.flatnonzero(label == one)
        mixture = GaussianMixture(2, random_state=5).fit(scaled[rows, None])
        expected = mixture.predict_proba(scaled[rows, None])[:, mixture.means_.ravel().argmax()]
        assert found[rows].tolist() == pytest.approx(expected.tolist())
        assert (found[rows[:30]] < 0.5).all()
        assert (found[rows[30:]] > 0.5).all()


@pytest.mark.parametrize(("kind", "expected"), [("keep", 1.0), ("drop", np.nan)])
def test_a_class_that_no_mixture_divides_is_kept_or_dropped_whole(kind: Any, expected: float) -> None:
    label = np.array([0] * 40 + [1] + [2, 2, 2])
    score = np.concatenate([_two_humps(20, 3), [0.3], [0.5, 0.5, 0.5]])
    found = mixture_probability(scaled_in_class(score, label), label, replace(SETTINGS, small_classes=kind), 0)
    np.testing.assert_array_equal(found[40:], np.full(4, expected))
    assert np.isfinite(found[:40]).all()


@pytest.mark.parametrize("agree", [1, 2, 3, 4])
def test_any_number_of_rules_may_have_to_agree(agree: int) -> None:
    random = np.random.default_rng(4)
    label = np.repeat([0, 1], 50)
    scores = {rule: random.random(100) for rule in RULES}
    scores |= {rule: scaled_in_class(scores[rule], label) for rule in RULES if rule.endswith("_loss")}
    settings = replace(SETTINGS, agree=agree, theta_consistency=0.3, empty_classes="leave")
    found = select(scores, label, settings, classes=2, seed=0)
    of_losses = {
        rule: mixture_probability(scores[rule], label, settings, 0) for rule in RULES if rule.endswith("_loss")
    }
    for row in range(100):
        votes = 0
        for rule in RULES:
            if rule.endswith("_loss"):
                votes += bool(of_losses[rule][row] >= 0.5)
            else:
                votes += bool(scores[rule][row] >= 0.3)
        assert found.votes_N[row] == votes
        assert found.selected_N[row] == (votes >= agree)


def test_a_share_keeps_the_highest_scores_of_one_rule() -> None:
    scores = {"confidence": np.array([0.1, 0.9, 0.5, np.nan, 0.5]), "zeroshot_loss": np.zeros(5)}
    settings = replace(SETTINGS, rules=("confidence",), agree=1, share=0.4, empty_classes="leave")
    found = select(scores, np.zeros(5, dtype=int), settings, classes=1, seed=0)
    assert found.selected_N.tolist() == [False, True, True, False, False]
    assert top_share(np.array([1.0, 1.0, 0.2, 1.0]), 0.5, np.array([0.1, 0.9, 1.0, 0.3])).tolist() == [
        False, True, False, True,
    ]  # fmt: skip
    assert top_share(scores["confidence"], 0.8).tolist() == [True, True, True, False, True]


def test_a_share_by_loss_is_by_the_mixtures_probability_and_then_by_the_loss() -> None:
    label = np.zeros(60, dtype=int)
    scores = {"zeroshot_loss": scaled_in_class(_two_humps(30, 6), label)}
    settings = replace(SETTINGS, rules=("zeroshot_loss",), agree=1, share=0.25, empty_classes="leave")
    found = select(scores, label, settings, classes=1, seed=0)
    assert found.selected_N.sum() == 15
    assert (
        found.judged["zeroshot_loss"][found.selected_N].min() >= found.judged["zeroshot_loss"][~found.selected_N].max()
    )
    assert (
        found.judged["zeroshot_loss"].tolist()
        == mixture_probability(scores["zeroshot_loss"], label, settings, 0).tolist()
    )


@pytest.mark.parametrize(
    ("kind", "expected"), [("best", {8, 9}), ("worst", {5, 6}), ("leave", set())], ids=["best", "worst", "leave"]
)
def test_a_class_without_any_is_filled_with_its_best_or_as_the_official_sort_has_it(
    kind: Any, expected: set[int]
) -> None:
    label = np.array([0] * 5 + [1] * 5)
    selected = np.array([True, True, False, False, False] + [False] * 5)
    score = np.arange(10, dtype=float)
    found = fill_empty_classes(selected, score, label, replace(SETTINGS, empty_classes=kind), classes=2)
    assert set(np.flatnonzero(found)) == {0, 1} | expected


def test_a_filled_class_gets_at_least_a_classs_share_of_a_class_and_at_most_what_it_has() -> None:
    label = np.array([0] * 30 + [1] * 8 + [2] * 2)
    selected = np.zeros(40, dtype=bool)
    selected[0] = True
    found = fill_empty_classes(selected, np.arange(40.0), label, SETTINGS, classes=3)
    assert np.bincount(label[found]).tolist() == [1, 4, 2]  # floor(40 / 3 / 3) = 4, of which class 2 has 2
    nothing = fill_empty_classes(np.zeros(40, dtype=bool), np.arange(40.0), label, SETTINGS, classes=3)
    assert np.bincount(label[nothing]).tolist() == [4, 4, 2]
