"""The benchmark of the evaluation compares what it says it compares."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.core.schema import StrengthsConfig
from tests.benchmarks.probe import Examples, compare, made_features, unit_rows
from tests.oracles import probe as oracle
from tests.real_features import bundled_pictures

FEW = StrengthsConfig(lowest=0.01, highest=100.0, per_decade=1, start=3)


def test_both_sides_fit_the_same_strengths_on_the_same_rows() -> None:
    image, label = bundled_pictures(16, 400)
    found = compare(Examples("pictures", image, label), FEW, repeats=2, tolerance=1e-8)
    assert [fit.inverse_l2 for fit in found.ours] == [fit.inverse_l2 for fit in found.theirs]
    assert [fit.inverse_l2 for fit in found.ours][:3] == [0.01, 1.0, 100.0]
    for ours, theirs in zip(found.ours, found.theirs, strict=True):
        assert ours.objective == pytest.approx(theirs.objective, rel=1e-6)
    least = oracle.optimum(unit_rows(image).astype(np.float64), label, found.ours[-1].inverse_l2)
    assert found.ours[-1].objective == pytest.approx(least, rel=1e-6)
    assert len(found.ours_seconds) == 2
    assert found.theirs_seconds == sum(fit.seconds for fit in found.theirs)


def test_made_features_have_their_classes_evenly_and_a_common_direction() -> None:
    made = made_features(600, 32, 6)
    assert np.bincount(made.label).tolist() == [100] * 6
    assert np.linalg.norm(unit_rows(made.image).mean(axis=0)) > 0.5
