from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import SelectCleanConfig
from pipeline_steps.methods.clipcleaner.posteriors import (
    LEAST_LOG,
    batch_confidence,
    label_scores,
    regression_log_posterior,
    zeroshot_log_posterior,
)
from tests.oracles import clipcleaner as oracle
from tests.unit.training.tiny import RAW

SETTINGS = load_section(RAW, "select_clean", SelectCleanConfig)


def _unit(rows: int, seed: int, width: int = 6) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _clusters(per_class: int, classes: int = 3, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features near one of some directions, and the class of each."""
    label = np.repeat(np.arange(classes), per_class)
    near = _unit(classes, 1, width)[label] + 0.25 * _unit(len(label), 2, width)
    return near / np.linalg.norm(near, axis=1, keepdims=True), label


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_the_zeroshot_posterior_equals_a_plain_loop(pooling: Any) -> None:
    image, prompts, owner = _unit(7, 1), _unit(6, 2), np.array([0, 0, 0, 1, 2, 2])
    found = zeroshot_log_posterior(image, prompts, owner, logit_scale=9.0, pooling=pooling).exp()
    groups = [[prompts[place].tolist() for place in np.flatnonzero(owner == k)] for k in range(3)]
    for row in range(7):
        expected = oracle.posterior(image[row].tolist(), groups, 9.0, pooling)
        assert found[row].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_sum_favours_the_class_with_more_prompts_and_a_mean_does_not() -> None:
    prompt = _unit(1, 3)
    prompts, owner = np.repeat(prompt, 4, axis=0), np.array([0, 0, 0, 1])
    image = _unit(5, 4)
    mean = zeroshot_log_posterior(image, prompts, owner, logit_scale=9.0, pooling="mean").exp()
    total = zeroshot_log_posterior(image, prompts, owner, logit_scale=9.0, pooling="sum").exp()
    assert mean.tolist() == pytest.approx(np.full((5, 2), 0.5))
    assert total.tolist() == pytest.approx(np.tile([0.75, 0.25], (5, 1)))


def test_a_scale_of_100_neither_overflows_nor_loses_the_labels_score() -> None:
    prompts = _unit(3, 5)
    found = zeroshot_log_posterior(prompts, prompts, np.arange(3), logit_scale=1000.0, pooling="mean")
    own, consistency = label_scores(found, np.array([0, 1, 1]))
    assert np.isfinite(own).all()
    assert (own >= LEAST_LOG).all()
    assert consistency[:2].tolist() == [1, 1]
    assert 0 <= consistency[2] < 1e-6


def test_out_of_fold_a_sample_does_not_vouch_for_its_own_label() -> None:
    image, truth = _clusters(40, width=24)
    image = np.concatenate([image, _unit(120, 9, 24)], axis=1)  # directions that a regression may memorise labels by
    label = truth.copy()
    label[::8] = (label[::8] + 1) % 3
    consistency = {}
    for kind in ("in_sample", "out_of_fold"):
        settings = replace(SETTINGS, regression=kind, inverse_l2=1e4)
        _, consistency[kind] = label_scores(regression_log_posterior(image, label, settings, 0), label)
    wrong = label != truth
    assert consistency["in_sample"][wrong].mean() > 0.9
    assert consistency["out_of_fold"][wrong].mean() < 0.3
    assert consistency["out_of_fold"][~wrong].mean() > 0.7


def test_a_class_of_one_sample_and_one_that_nobody_has_do_not_stop_the_regression() -> None:
    image, label = _clusters(20)
    label = np.where(label == 2, 4, label)  # nobody has 2 or 3
    label[-1] = 5
    found = regression_log_posterior(image, label, SETTINGS, 0)
    assert found.shape == (60, 6)
    own, consistency = label_scores(found, label)
    assert np.isfinite(own).all()
    assert consistency[-1] < 1e-6  # no other sample of its class can vouch for it
    assert (found[:, 2:4] == LEAST_LOG).all()


def test_classes_smaller_than_the_folds_have_fewer_and_one_class_alone_has_none() -> None:
    image, label = _clusters(3)
    _, consistency = label_scores(regression_log_posterior(image, label, replace(SETTINGS, folds=5), 0), label)
    assert consistency.mean() > 0.5
    for labels in (np.zeros_like(label), np.array([0] * 8 + [1])):
        with pytest.raises(PipelineError, match="cannot be fitted on 9 labels"):
            regression_log_posterior(image, labels, SETTINGS, 0)


def test_a_regression_is_the_same_with_the_same_seed() -> None:
    image, label = _clusters(20)
    assert (
        regression_log_posterior(image, label, SETTINGS, 3) == regression_log_posterior(image, label, SETTINGS, 3)
    ).all()


def test_confidence_is_ncus_in_batches_that_hold_every_sample_once() -> None:
    image, label = _clusters(20)
    text = _unit(3, 1)
    found = batch_confidence(image, text, label, logit_scale=5.0, batch_size=30, seed=1)
    order = np.random.default_rng(1).permutation(60)
    for rows in (order[:30], order[30:]):
        logits = 5.0 * torch.from_numpy(image[rows] @ text[label[rows]].T)
        expected = (logits.softmax(1).diagonal() + logits.softmax(0).diagonal()) / 2
        assert found[rows].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
