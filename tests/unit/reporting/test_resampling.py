from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting import resampling
from pipeline_steps.reporting.resampling import resampled_sums


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_resample_draws_all_rows_again() -> None:
    ones = resampled_sums(np.ones((50, 1)), samples=40, rng=_random())
    assert np.all(ones == 50)


def test_sums_are_those_of_drawn_rows_and_the_same_rows_for_all_columns() -> None:
    indicator = np.eye(6)
    counts = resampled_sums(indicator, samples=30, rng=_random())
    values = np.arange(6.0) ** 2
    sums = resampled_sums(np.column_stack([values, values]), samples=30, rng=_random())
    assert np.allclose(sums[:, 0], counts @ values)
    assert np.array_equal(sums[:, 0], sums[:, 1])
    assert len({tuple(row) for row in counts}) > 20


def test_the_spread_is_that_of_theory() -> None:
    values = _random(1).normal(size=(400, 1))
    sums = resampled_sums(values, samples=4000, rng=_random())
    assert sums.mean() == pytest.approx(values.sum(), abs=0.05 * np.sqrt(400))
    assert sums.std() == pytest.approx(values.std() * np.sqrt(400), rel=0.05)


def test_within_strata_each_keeps_its_number_of_rows() -> None:
    strata = np.array([2, 0, 1, 2, 2, 0, 7])
    members = (strata[:, None] == np.array([0, 1, 2, 7])).astype(float)
    counts = resampled_sums(members, samples=60, rng=_random(), strata_N=strata)
    assert np.all(counts == [2, 1, 3, 1])
    rows = resampled_sums(np.eye(7), samples=60, rng=_random(), strata_N=strata)
    assert np.all(rows[:, 2] == 1)
    assert np.all(rows[:, 6] == 1)
    assert {tuple(row) for row in rows[:, [1, 5]]} == {(0, 2), (1, 1), (2, 0)}


def test_memory_is_bounded_and_the_result_does_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _random(2).random((300, 3))
    whole = resampled_sums(values, samples=20, rng=_random())
    monkeypatch.setattr(resampling, "DRAWS_AT_ONCE", 700)
    parts = resampled_sums(values, samples=20, rng=_random())
    assert np.allclose(whole, parts)


def test_one_picture_is_too_few() -> None:
    with pytest.raises(PipelineError, match="at least two test pictures"):
        resampled_sums(np.ones((1, 1)), samples=10, rng=_random())
