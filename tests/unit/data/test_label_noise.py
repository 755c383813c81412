from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.data.label_noise import asymmetric_noise, instance_noise, symmetric_noise

LABELS = np.tile(np.arange(10), 500)


@pytest.mark.parametrize(("own_too", "wrong"), [(True, 0.45), (False, 0.5)])
def test_symmetric_draws_give_the_rate_that_they_promise(own_too: bool, wrong: float) -> None:
    noisy = symmetric_noise(LABELS, classes=10, fraction=0.5, seed=1, own_too=own_too)
    assert np.mean(noisy != LABELS) == pytest.approx(wrong, abs=0.015 if own_too else 1e-9)
    moved = noisy[noisy != LABELS]
    assert np.bincount(moved, minlength=10) / len(moved) == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert (symmetric_noise(LABELS, classes=10, fraction=0.5, seed=1, own_too=own_too) == noisy).all()
    assert (symmetric_noise(LABELS, classes=10, fraction=0.5, seed=2, own_too=own_too) != noisy).any()


def test_asymmetric_noise_goes_where_it_is_told() -> None:
    target = np.arange(10)
    target[[2, 4, 9, 3, 5]] = [0, 7, 1, 5, 3]
    noisy = asymmetric_noise(LABELS, target_K=target, fraction=0.4, seed=0)
    moved = noisy != LABELS
    assert (noisy[moved] == target[LABELS[moved]]).all()
    assert not moved[np.isin(LABELS, [0, 1, 6, 7, 8])].any()
    assert np.mean(moved) == pytest.approx(0.2, abs=0.02)  # half of the classes stay where they are


def test_instance_noise_has_its_rate_and_follows_the_picture() -> None:
    random = np.random.default_rng(3)
    pixels = random.random((5000, 12))
    noisy = instance_noise(LABELS, pixels, classes=10, fraction=0.4, seed=1)
    assert np.mean(noisy != LABELS) == pytest.approx(0.4, abs=0.02)
    assert (instance_noise(LABELS, pixels, classes=10, fraction=0.4, seed=1) == noisy).all()
    assert (instance_noise(LABELS, pixels, classes=10, fraction=0.0, seed=1) == LABELS).all()
    low = instance_noise(LABELS, pixels, classes=10, fraction=0.1, seed=1)
    assert np.mean(low != LABELS) == pytest.approx(0.13, abs=0.02)
    # Of one class, pictures that are alike go to the same wrong class more often than pictures that are not.
    rows = np.flatnonzero((LABELS == 0) & (noisy != 0))
    near = pixels[rows] - pixels[rows].mean(axis=0)
    alike = near @ near.T
    same = noisy[rows][:, None] == noisy[rows][None]
    off = ~np.eye(len(rows), dtype=bool)
    assert alike[same & off].mean() > alike[~same].mean()


def test_no_noise_changes_nothing() -> None:
    pixels = np.random.default_rng(0).random((5000, 4))
    for noisy in (
        symmetric_noise(LABELS, classes=10, fraction=0.0, seed=0, own_too=True),
        asymmetric_noise(LABELS, target_K=np.roll(np.arange(10), -1), fraction=0.0, seed=0),
    ):
        assert (noisy == LABELS).all()
    assert np.mean(instance_noise(LABELS, pixels, classes=10, fraction=0.0, seed=0) != LABELS) < 0.15
