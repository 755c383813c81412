from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.evaluation.similarity import pair_similarities, validation_similarities
from tests.feature_tree import write_index
from tests.oracles.ranking import inner_product
from tests.results_tree import VALIDATION, unit, write_features


def test_the_three_cosines_are_those_of_plain_loops() -> None:
    random = np.random.default_rng(0)
    image, text = unit(random.normal(size=(61, 5))), unit(random.normal(size=(61, 5)))
    found = pair_similarities(image, text)
    for row in range(61):
        others = sorted(inner_product(image[row], text[other]) for other in range(61) if other != row)
        assert found["matched"][row] == pytest.approx(inner_product(image[row], text[row]))
        assert found["mismatched"][row] == pytest.approx(sum(others) / 60)
        assert found["hard_mismatched"][row] == pytest.approx(sum(others[-3:]) / 3)


def test_of_many_pairs_evenly_spaced_ones_are_taken(tmp_path: Path) -> None:
    write_features(tmp_path / "f.json", signal=0.6)
    features = Features(tmp_path / "f.json")
    every, some = validation_similarities(features), validation_similarities(features, largest_sample=10)
    assert (len(every), len(some)) == (VALIDATION, 10)
    rows = np.linspace(0, VALIDATION - 1, 10).round().astype(int)
    assert some["matched"].tolist() == pytest.approx(every["matched"][rows].tolist())
    assert (every["matched"] > every["mismatched"]).mean() > 0.9


def test_unmatched_validation_pairs_are_refused(tmp_path: Path) -> None:
    rows = unit(np.eye(3))
    write_index(tmp_path / "f.json", {"validation/image": rows, "validation/text": rows[:2]})
    with pytest.raises(PipelineError, match="validation holds 3 pictures and 2 texts"):
        validation_similarities(Features(tmp_path / "f.json"))
