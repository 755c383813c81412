from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import HEADLINES
from pipeline_steps.reporting.statistics import Bootstrap, Interval
from pipeline_steps.reporting.summary import Difference, Summary, control_sentences, points, summarise, summary_frame


def test_cells_hold_the_scores_and_their_differences(grid: Grid, summary: Summary) -> None:
    for headline in HEADLINES:
        values = {
            method: grid.values(headline.stage, method, "openclipart", headline.measure)[0] for method in grid.methods
        }
        for method, value in values.items():
            cell = summary.cells[method, headline.key]
            assert cell.mean == pytest.approx(value)
            assert cell.std is None
            assert cell.interval.low <= value <= cell.interval.high
            if method != "continued":
                assert cell.to_control is not None
                assert cell.to_control.estimate == pytest.approx(value - values["continued"])
        assert summary.cells["continued", headline.key].to_control is None
        assert summary.cells["reference", headline.key].to_reference is None


def test_several_seeds_and_data_sets_are_averaged(wide_grid: Grid, bootstrap: Bootstrap) -> None:
    cell = summarise(wide_grid, bootstrap).cells["ncu", "mean_recall"]
    per_set = [wide_grid.values("eval_retrieval", "ncu", name, "mean_recall") for name in ("openclipart", "second")]
    per_seed = np.mean(per_set, axis=0)
    assert cell.mean == pytest.approx(per_seed.mean())
    assert cell.std == pytest.approx(per_seed.std(ddof=1))


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.01, 0.02), "ahead of"), ((-0.02, -0.01), "behind"), ((-0.01, 0.02), "indistinguishable from")],
)
def test_a_verdict_follows_the_interval(interval: tuple[float, float], verdict: str) -> None:
    assert Difference(0.0, Interval(*interval)).verdict == verdict


def test_the_frame_has_a_row_per_method_and_one_of_chance(summary: Summary) -> None:
    frame = summary_frame(summary).set_index("method")
    assert list(frame.index) == ["reference", "continued", "gradient_ascent", "ncu", "chance"]
    assert frame.loc["chance", "zero_shot_top1/mean"] == 1 / 8
    assert frame.loc["continued", "mean_recall/minus_control"] is None or np.isnan(
        frame.loc["continued", "mean_recall/minus_control"]
    )
    assert frame.loc["ncu", "mean_recall/minus_control"] > 0


def test_words_say_who_beats_the_control_and_where_not(summary: Summary) -> None:
    sentences = list(control_sentences(summary))
    assert len(sentences) == 2
    cell = summary.cells["gradient_ascent", "mean_recall"]
    assert cell.to_control is not None
    assert cell.to_control.verdict == "behind"
    assert sentences[0].startswith("**Gradient ascent does not beat the equal-compute control** on: ")
    assert f"mean recall ({points(cell.to_control)})" in sentences[0]
    failed = [score for score in summary.row("ncu") if score.to_control and score.to_control.interval.low <= 0]
    assert ("does not beat" in sentences[1]) == bool(failed)
    assert sentences[1].count("[") == len(failed)


def test_without_the_control_words_say_that_nothing_was_compared(results_without_control: Summary) -> None:
    assert list(control_sentences(results_without_control)) == [
        "The equal-compute control (`continued`) is not in `methods`, so no method was compared with it."
    ]


@pytest.fixture
def results_without_control(grid: Grid) -> Summary:
    return summarise(Grid(("reference", "ncu"), grid.seeds, grid.cells), Bootstrap(20, 0.95, 0))


def test_a_score_whose_interval_reaches_chance_is_marked(summary: Summary) -> None:
    cell = summary.cells["ncu", "mean_recall"]
    assert cell.above_chance
    assert not cell.__class__(**{**cell.__dict__, "chance": cell.interval.low}).above_chance
