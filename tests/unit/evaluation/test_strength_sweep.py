from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline_steps.core.schema import StrengthsConfig
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, LabelledRows, Part
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression
from pipeline_steps.evaluation.strength_sweep import choose_strength, find_peak, predict
from tests.oracles import probe as oracle
from tests.oracles import ranking as plain
from tests.real_features import bundled_pictures

PAPER = StrengthsConfig(lowest=1e-6, highest=1e6, per_decade=8, start=7)
FEW = StrengthsConfig(lowest=1e-3, highest=1e3, per_decade=2, start=4)


def rows(image: np.ndarray, label: np.ndarray) -> LabelledRows:
    return LabelledRows([Part(ArrayMatrix(image), label)], normalize=True, device=torch.device("cpu"))


def test_the_strengths_are_the_papers() -> None:
    assert PAPER.count == 97
    assert [PAPER.at(place) for place in range(0, 97, 16)] == [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]
    assert PAPER.at(49) == pytest.approx(10 ** (1 / 8), rel=1e-5)
    assert StrengthsConfig(lowest=2.0, highest=2.0, per_decade=1, start=1).count == 1


@pytest.mark.parametrize("values", [(1.0, 20.0, 8, 2), (10.0, 1.0, 1, 2), (1.0, 100.0, 4, 4), (1.0, 1.0, 1, 2)])
def test_strengths_that_do_not_divide_evenly_are_refused(values: tuple[float, float, int, int]) -> None:
    lowest, highest, per_decade, start = values
    with pytest.raises(ValueError, match=r"allowed: a whole number of them|allowed: 1 where lowest is highest"):
        StrengthsConfig(lowest=lowest, highest=highest, per_decade=per_decade, start=start)


@pytest.mark.parametrize("peak", [0, 5, 40, 63, 96])
def test_the_search_finds_a_single_peak_in_few_steps(peak: int) -> None:
    asked: list[int] = []

    def height(place: int) -> float:
        asked.append(place)
        return -abs(place - peak)

    assert find_peak(97, 7, height) == peak
    assert asked[:7] == [0, 16, 32, 48, 64, 80, 96]
    assert len(asked) == len(set(asked)) <= 15


def test_of_equals_the_first_wins_and_all_are_tried_where_all_are_asked_for() -> None:
    assert find_peak(97, 7, lambda place: 1.0) == 0
    heights = [3.0, 1.0, 4.0, 1.0, 4.0]
    assert find_peak(5, 5, heights.__getitem__) == 2
    assert find_peak(1, 1, lambda place: 0.0) == 0


def test_the_sweep_tells_the_accuracy_that_scikit_learns_fits_have() -> None:
    image, label = bundled_pictures(30, 900)
    fitted, held_out = rows(image[:600], label[:600]), rows(image[600:], label[600:])
    sweep = choose_strength(fitted, held_out, FEW, 3000, title="test")
    unit = (image / np.linalg.norm(image, axis=1, keepdims=True)).astype(np.float64)
    assert list(sweep.accuracy) == sorted(sweep.accuracy)
    assert set(sweep.accuracy) >= {1e-3, 1e-1, 1e1, 1e3}
    assert sweep.unconverged == ()
    for inverse_l2, accuracy in sweep.accuracy.items():
        model = oracle.fitted(unit[:600], label[:600], inverse_l2)
        assert accuracy == pytest.approx(model.score(unit[600:], label[600:]), abs=1.1 / 300)
    best = max(sweep.accuracy.values())
    assert sweep.chosen.inverse_l2 == min(one for one, accuracy in sweep.accuracy.items() if accuracy == best)


def test_fits_that_stop_early_are_named() -> None:
    image, label = bundled_pictures(30, 300)
    sweep = choose_strength(rows(image, label), rows(image, label), FEW, 2, title="test")
    assert 1e3 in sweep.unconverged


def test_predictions_and_ranks_are_those_of_the_logits() -> None:
    image, label = bundled_pictures(20, 200)
    label = 2 * label + 1
    known = label < 9
    solution = SoftmaxRegression(rows(image[known], label[known])).fit(1.0, 500)
    prediction, rank = predict(solution, rows(image, label))
    unit = image / np.linalg.norm(image, axis=1, keepdims=True)
    logits = unit.astype(np.float64) @ solution.weight_KD.numpy().T + solution.bias_K.numpy()
    assert prediction.tolist() == [int(solution.classes[row.argmax()]) for row in logits]
    for row, true, found in zip(logits, label, rank, strict=True):
        places = np.flatnonzero(solution.classes == true)
        wanted = 1 + int((row > row[places[0]]).sum()) if len(places) else 1 + len(solution.classes)
        assert found == wanted
    assert plain.mean_per_class(prediction.tolist(), label.tolist()) > 1 / 8


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    image, label = np.ones((40, 6), dtype=np.float32), np.arange(40) % 8
    solution = SoftmaxRegression(rows(image, label)).fit(1.0, 500)
    prediction, rank = predict(solution, rows(image, label))
    assert set(prediction.tolist()) == {0}
    assert rank.tolist() == (label + 1).tolist(), "a tower that gives one vector for all is at chance for every k"
