from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Bootstrap, Measured, measure_grid
from pipeline_steps.reporting.names import HEADLINES
from pipeline_steps.reporting.summary import Summary, control_sentences, points, summarise, summary_frame
from tests.unit.reporting.conftest import HOLE


def test_cells_hold_the_scores_and_their_differences(grid: Grid, summary: Summary) -> None:
    for headline in HEADLINES:
        values = {
            method: grid.values(headline.stage, method, "openclipart", headline.measure)[0] for method in grid.methods
        }
        for method, value in values.items():
            cell = summary.cells[method, headline.key]
            assert cell.score.mean == pytest.approx(value)
            assert cell.score.std is None
            assert cell.score.interval.low <= value <= cell.score.interval.high
            if method != "continued":
                assert cell.to_control is not None
                assert cell.to_control.estimate == pytest.approx(value - values["continued"])
        assert summary.cells["continued", headline.key].to_control is None
        assert summary.cells["reference", headline.key].to_reference is None


def test_several_seeds_and_data_sets_are_averaged(wide_measured: Measured) -> None:
    summary = summarise(wide_measured)
    cell = summary.cells["ncu", "mean_recall"]
    sets = ("openclipart", "second")
    per_set = [wide_measured.grid.values("eval_retrieval", "ncu", name, "mean_recall") for name in sets]
    per_seed = np.mean(per_set, axis=0)
    assert cell.score.mean == pytest.approx(per_seed.mean())
    assert cell.score.std == pytest.approx(per_seed.std(ddof=1))
    assert cell.column.title == "Mean recall (2 sets)"
    frame = summary_frame(summary).set_index("method")
    assert frame.loc["ncu", "mean_recall/seed_low"] == cell.score.over_seeds[0]  # type: ignore[index]
    assert frame.loc["ncu", "mean_recall/minus_control_seed_high"] == cell.to_control.over_seeds[1]  # type: ignore


def test_a_mean_over_a_missing_set_is_not_given(paper_measured: Measured) -> None:
    summary = summarise(paper_measured)
    frame = summary_frame(summary).set_index("method")
    assert summary.holes == {"cars": HOLE}
    assert summary.given("zero_shot_top1") is None
    assert ("ncu", "zero_shot_top1") not in summary.cells
    assert "zero_shot_top1/mean" not in frame
    assert frame.loc["ncu", "zero_shot_top1/needs"] == "cars"
    assert frame.loc["ncu", "zero_shot_top1/sets"] == 5
    assert [column.key for column in summary.columns if not column.needs][-1:] == ["mean_recall"]


def test_the_mean_over_folds_is_not_counted_twice(paper_measured: Measured) -> None:
    summary = summarise(paper_measured)
    column = summary.given("mean_recall")
    assert column is not None
    assert column.datasets == ("mscoco",)


def test_an_average_by_name_is_given_with_its_number_of_sets(paper_measured: Measured) -> None:
    summary = summarise(paper_measured, {"two": ("cifar10", "pets"), "three": ("cifar10", "pets", "cars")})
    column = summary.given("zero_shot_top1")
    assert column is not None
    assert column.key == "zero_shot_top1@two"
    assert column.title == "Zero-shot top-1 (two, 2 sets)"
    values = [paper_measured.grid.values("eval_zeroshot", "ncu", name, "top1")[0] for name in ("cifar10", "pets")]
    assert summary.cells["ncu", column.key].score.mean == pytest.approx(np.mean(values))
    three = next(one for one in summary.columns if one.key == "zero_shot_top1@three")
    assert three.needs == ("cars",)
    assert three.title == "Zero-shot top-1 (three, 3 sets)"
    assert {column.average for column in summary.columns if column.headline.stage == "eval_retrieval"} == {None}


def test_an_average_over_a_set_that_is_not_evaluated_is_refused(paper_measured: Measured) -> None:
    with pytest.raises(PipelineError, match=r"not evaluate \(all: stl10\); evaluated are cars, cifar10, .*_60_folds"):
        summarise(paper_measured, {"all": ("cifar10", "stl10")})


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
    assert sentences[0].startswith("**Gradient ascent does not beat the equal-compute control** throughout: ")
    assert f"mean recall ({points(cell.to_control)})" in sentences[0]
    for sentence, method in zip(sentences, ("gradient_ascent", "ncu"), strict=True):
        row = [cell for cell in summary.row(method) if cell.to_control]
        failed = [cell for cell in row if cell.to_control and cell.to_control.interval.low <= 0]
        assert ("does not beat" in sentence) == bool(failed)
        assert not failed or sentence.count("[") == len(row)
        for verdict, listed in re.findall(r"(behind|indistinguishable|ahead) on ([^;]*)", sentence):
            assert all((verdict in cell.to_control.verdict) == (points(cell.to_control) in listed) for cell in row)


def test_an_average_counts_the_sets_of_its_task_and_names_those_that_are_missing(paper_measured: Measured) -> None:
    averages = {"pair": ("cifar10", "mscoco"), "only cars": ("cars",)}
    columns = {column.key: column for column in summarise(paper_measured, averages).columns}
    recall, top1 = columns["mean_recall@pair"], columns["zero_shot_top1@pair"]
    assert (recall.datasets, recall.needs, recall.sets) == (("mscoco",), (), 1)
    assert (top1.datasets, top1.needs, top1.sets) == (("cifar10",), (), 1)
    assert columns["zero_shot_top1@only cars"].needs == ("cars",)
    assert "mean_recall@only cars" not in columns


def test_without_the_control_words_say_that_nothing_was_compared(results_without_control: Summary) -> None:
    assert list(control_sentences(results_without_control)) == [
        "The equal-compute control (`continued`) is not in `methods`, so no method was compared with it."
    ]


@pytest.fixture
def results_without_control(grid: Grid) -> Summary:
    return summarise(measure_grid(Grid(("reference", "ncu"), grid.seeds, grid.cells), Bootstrap(20, 0.95, 0)))


def test_measures_without_numbers_are_not_counted(paper_measured: Measured, summary: Summary) -> None:
    sentences = list(control_sentences(summarise(paper_measured)))
    assert not any("zero-shot" in sentence for sentence in sentences)
    nothing = dataclasses.replace(summary, cells={}, columns=())
    assert list(control_sentences(nothing)) == []
