from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.statistics import Bootstrap, statistic_of, unit_outcomes

STAGES = ("eval_zeroshot", "eval_probe", "eval_retrieval")


@pytest.mark.parametrize("stage", STAGES)
def test_the_statistic_of_the_outcomes_is_the_score(grid: Grid, stage: str) -> None:
    for measure in grid.measures(stage, "openclipart"):
        for method in grid.methods:
            arrays = unit_outcomes(grid, stage, method, "openclipart", measure)
            score = grid.values(stage, method, "openclipart", measure)[0]
            assert statistic_of(measure)(*arrays) == pytest.approx(score), (measure, method)


@pytest.mark.parametrize("measure", ["mean_recall", "image_to_text_recall@5", "text_to_image_recall@1"])
def test_the_outcomes_of_several_seeds_are_their_mean(wide_grid: Grid, measure: str) -> None:
    values = wide_grid.values("eval_retrieval", "ncu", "second", measure)
    arrays = unit_outcomes(wide_grid, "eval_retrieval", "ncu", "second", measure)
    assert len(values) == 3
    assert statistic_of(measure)(*arrays) == pytest.approx(values.mean())


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    hits = (np.random.default_rng(0).random(400) < 0.3).astype(float)
    low, high = Bootstrap(samples=4000, confidence=0.9, seed=1).interval([(hits,)], statistic_of("top1"))
    half_width = 1.645 * hits.std() / np.sqrt(len(hits))
    assert low == pytest.approx(hits.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(hits.mean() + half_width, abs=0.1 * half_width)


def test_the_mean_of_two_data_sets_has_the_narrower_interval() -> None:
    random = np.random.default_rng(0)
    blocks = [((random.random(300) < 0.4).astype(float),) for _ in range(2)]
    bootstrap = Bootstrap(samples=3000, confidence=0.95, seed=0)
    low, high = bootstrap.interval(blocks, statistic_of("top1"))
    one_low, one_high = bootstrap.interval(blocks[:1], statistic_of("top1"))
    assert (high - low) == pytest.approx((one_high - one_low) / np.sqrt(2), rel=0.1)


def test_pairing_removes_what_methods_share(grid: Grid, bootstrap: Bootstrap) -> None:
    low, high = bootstrap.of_difference(grid, "eval_retrieval", ("ncu", "ncu"), "mean_recall", ["openclipart"])
    assert (low, high) == (0, 0)
    pair, sets = ("ncu", "reference"), ["openclipart"]
    low, high = bootstrap.of_difference(grid, "eval_retrieval", pair, "mean_recall", sets)
    paired = high - low
    apart = [bootstrap.of_score(grid, "eval_retrieval", method, "mean_recall", sets) for method in pair]
    unpaired = np.sqrt(sum((interval.high - interval.low) ** 2 for interval in apart))
    difference = np.subtract(
        *(grid.values("eval_retrieval", method, "openclipart", "mean_recall")[0] for method in pair)
    )
    assert low < difference < high
    assert paired < 0.8 * unpaired


def test_a_seed_gives_the_same_interval_and_another_seed_another(grid: Grid) -> None:
    found = [
        Bootstrap(200, 0.95, seed).of_score(grid, "eval_probe", "ncu", "mean_per_class", ["openclipart"])
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]


def test_one_picture_is_too_few(bootstrap: Bootstrap) -> None:
    with pytest.raises(PipelineError, match="at least two test pictures"):
        bootstrap.interval([(np.ones(1),)], statistic_of("top1"))
