from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline_steps.reporting.grid import Cell, Grid
from pipeline_steps.reporting.measured import Bootstrap, Difference, Interval, Measured, Place, measure_grid
from pipeline_steps.reporting.names import ZERO_SHOT

MEAN_RECALL = Place("eval_retrieval", "openclipart", "mean_recall")


def _grid(hits: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]], label: np.ndarray) -> Grid:
    """One zero-shot set whose pictures each method gets right or wrong as given."""
    cells = {}
    for method, hit in hits.items():
        frame = pd.DataFrame({"row": np.arange(len(hit)), "label": label, "prediction": np.where(hit, label, -9)})
        per_class = pd.Series(hit).groupby(label).mean().mean()
        scores = {"top1": hit.mean(), "mean_per_class": per_class, "chance_top1": 0.1, "chance_mean_per_class": 0.1}
        frame["rank"] = np.where(hit, 1, 2)
        cells[ZERO_SHOT, method, 0] = Cell({"made": scores}, {}, {"made": frame})
        for stage in ("eval_probe", "eval_retrieval"):
            cells[stage, method, 0] = Cell({}, {}, {})
    return Grid(tuple(hits), (0,), cells)


def test_the_interval_of_a_share_is_the_normal_one() -> None:
    hit = np.random.default_rng(0).random(400) < 0.3
    measured = measure_grid(_grid({"reference": hit}, np.zeros(400, int)), Bootstrap(4000, 0.9, 1))
    score = measured.score("reference", [Place(ZERO_SHOT, "made", "top1")])
    half = stats.norm.ppf(0.95) * hit.std() / np.sqrt(len(hit))
    assert score.mean == pytest.approx(hit.mean())
    assert score.interval.low == pytest.approx(hit.mean() - half, abs=0.1 * half)
    assert score.interval.high == pytest.approx(hit.mean() + half, abs=0.1 * half)


def test_the_interval_of_a_mean_per_class_is_that_of_draws_within_classes() -> None:
    random = np.random.default_rng(3)
    label = np.repeat(np.arange(10), np.arange(5, 55, 5))
    hit = random.random(len(label)) < 0.2 + 0.06 * label
    measured = measure_grid(_grid({"reference": hit}, label), Bootstrap(4000, 0.9, 1))
    score = measured.score("reference", [Place(ZERO_SHOT, "made", "mean_per_class")])
    groups = pd.Series(hit.astype(float)).groupby(label)
    deviation = np.sqrt((groups.var(ddof=0) / groups.size()).sum()) / 10
    half = stats.norm.ppf(0.95) * deviation
    assert score.mean == pytest.approx(groups.mean().mean())
    assert score.interval.high - score.interval.low == pytest.approx(2 * half, rel=0.06)


def test_a_paired_difference_is_that_of_the_pictures_that_differ() -> None:
    random = np.random.default_rng(4)
    first = random.random(500) < 0.4
    second = np.where(random.random(500) < 0.1, ~first, first)
    measured = measure_grid(_grid({"reference": first, "ncu": second}, np.zeros(500, int)), Bootstrap(4000, 0.9, 1))
    found = measured.difference("ncu", "reference", [Place(ZERO_SHOT, "made", "top1")])
    assert found is not None
    change = second.astype(float) - first
    half = stats.norm.ppf(0.95) * change.std() / np.sqrt(500)
    assert found.estimate == pytest.approx(change.mean())
    assert found.interval.high - found.interval.low == pytest.approx(2 * half, rel=0.06)


def test_pairing_removes_what_methods_share(measured: Measured) -> None:
    found = measured.difference("ncu", "reference", [MEAN_RECALL])
    assert found is not None
    apart = [measured.score(method, [MEAN_RECALL]).interval for method in ("ncu", "reference")]
    unpaired = np.sqrt(sum((interval.high - interval.low) ** 2 for interval in apart))
    assert found.interval.low < found.estimate < found.interval.high
    assert found.interval.high - found.interval.low < 0.8 * unpaired
    assert measured.difference("ncu", "ncu", [MEAN_RECALL]) is None
    assert measured.difference("ncu", "softclip", [MEAN_RECALL]) is None


def test_the_mean_of_two_data_sets_has_the_narrower_interval(wide_measured: Measured) -> None:
    both = wide_measured.places(ZERO_SHOT, "top1", ("openclipart", "second"))
    widths = [np.ptp(wide_measured.score("ncu", places).interval) for places in (both, both[:1], both[1:])]
    assert widths[0] == pytest.approx(np.sqrt(widths[1] ** 2 + widths[2] ** 2) / 2, rel=0.2)


def test_seeds_have_a_t_interval_of_their_own(wide_measured: Measured, measured: Measured) -> None:
    place = Place("eval_retrieval", "second", "mean_recall")
    values = wide_measured.grid.values(place.stage, "ncu", place.dataset, place.measure)
    score = wide_measured.score("ncu", [place])
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert score.over_seeds == pytest.approx(expected)
    assert score.std == pytest.approx(values.std(ddof=1))
    paired = wide_measured.difference("ncu", "continued", [place])
    assert paired is not None
    changes = values - wide_measured.grid.values(place.stage, "continued", place.dataset, place.measure)
    assert paired.over_seeds == pytest.approx(stats.t.interval(0.95, 2, loc=changes.mean(), scale=stats.sem(changes)))
    assert measured.score("ncu", [MEAN_RECALL]).over_seeds is None
    assert measured.score("ncu", [MEAN_RECALL]).std is None


def test_a_seed_gives_the_same_interval_and_another_seed_another(grid: Grid) -> None:
    found = [measure_grid(grid, Bootstrap(100, 0.95, seed)).score("ncu", [MEAN_RECALL]).interval for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_a_sets_interval_does_not_depend_on_the_other_sets(wide_grid: Grid, bootstrap: Bootstrap) -> None:
    cells = {
        key: Cell({"second": cell.scores["second"]}, {}, {"second": cell.outcomes["second"]})
        for key, cell in wide_grid.cells.items()
    }
    alone = measure_grid(Grid(wide_grid.methods, wide_grid.seeds, cells), bootstrap)
    place = [Place("eval_probe", "second", "accuracy")]
    assert alone.score("ncu", place) == measure_grid(wide_grid, bootstrap).score("ncu", place)


def test_a_score_whose_interval_reaches_chance_is_not_above_it(measured: Measured) -> None:
    score = measured.score("ncu", [MEAN_RECALL])
    assert score.above_chance
    assert not score.__class__(**{**score.__dict__, "chance": score.interval.low}).above_chance


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.01, 0.02), "ahead of"), ((-0.02, -0.01), "behind"), ((-0.01, 0.02), "indistinguishable from")],
)
def test_a_verdict_follows_the_interval(interval: tuple[float, float], verdict: str) -> None:
    assert Difference(0.0, Interval(*interval)).verdict == verdict
