from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import TrainClassifierConfig
from pipeline_steps.methods.clipcleaner.mixfix import balanced_order, mixed, mixfix
from tests.oracles import clipcleaner as oracle
from tests.unit.training.tiny import RAW

SETTINGS = load_section(RAW, "train_classifier", TrainClassifierConfig)


def test_every_class_is_drawn_as_often_as_the_largest() -> None:
    label = np.array([0] * 7 + [1] * 3 + [4])
    order = balanced_order(label, seed=1)
    assert np.bincount(label[order]).tolist() == [7, 7, 0, 0, 7]
    counts = np.bincount(order, minlength=11)
    assert counts[:7].tolist() == [1] * 7
    assert sorted(counts[7:10]) == [2, 2, 3]  # two whole rounds and a random part of one
    assert (balanced_order(label, seed=1) == order).all()
    assert (balanced_order(label, seed=2) != order).any()


def test_pictures_and_targets_are_mixed_alike_and_a_picture_is_mostly_itself() -> None:
    images, label = torch.arange(4.0).reshape(4, 1, 1, 1), torch.arange(4)
    mixed_images, target = mixed(images, label, classes=4, beta=1.0, seed=3)
    assert target.sum(dim=1).tolist() == pytest.approx([1] * 4)
    assert (target.diagonal() >= 0.5).all()
    assert mixed_images.ravel().tolist() == pytest.approx((target @ torch.arange(4.0)).tolist())
    random = np.random.default_rng(3)
    share = random.beta(1.0, 1.0)
    share, other = max(share, 1 - share), random.permutation(4)
    assert mixed_images.ravel().tolist() == pytest.approx([share * one + (1 - share) * other[one] for one in range(4)])


def test_mixfix_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.randn(200, 4, generator=generator).mul(3).softmax(dim=1)
    label = torch.randint(4, (200,), generator=generator)
    selected = torch.rand(200, generator=generator) < 0.3
    settings = replace(SETTINGS, theta_absorb=0.7, theta_relabel=0.95)
    found = mixfix(probability, label, selected, settings)
    expected = oracle.mixfix(probability.tolist(), label.tolist(), selected.tolist(), 0.7, 0.95)
    assert (found[0].tolist(), found[1].tolist()) == expected
    assert found[1][selected].all()
    assert (found[0] != label).any()
