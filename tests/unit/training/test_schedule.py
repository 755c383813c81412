from __future__ import annotations

import pytest

from pipeline_steps.training.schedule import cosine_factor


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_falls_to_zero() -> None:
    factors = [cosine_factor(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(earlier > later for earlier, later in zip(factors[10:], factors[11:], strict=False))


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert cosine_factor(0, 10, 0) == 1


def test_warm_up_over_the_whole_phase_never_divides_by_zero() -> None:
    assert cosine_factor(9, 10, 10) == 1
    assert cosine_factor(10, 10, 10) == 1
