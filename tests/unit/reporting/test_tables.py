from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Measured
from pipeline_steps.reporting.names import HEADLINES, measure_title, title_of
from pipeline_steps.reporting.summary import Summary, summarise
from pipeline_steps.reporting.tables import FILE_NAMES, summary_markdown, write_tables
from tests.unit.reporting.conftest import HOLE

METRICS = {"eval_retrieval": "recall"}


@pytest.fixture(scope="module")
def tables(measured: Measured, summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder, measured, summary)
    return folder


@pytest.fixture(scope="module")
def wide_tables(wide_measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide_tables")
    write_tables(folder, wide_measured, summarise(wide_measured))
    return folder


@pytest.fixture(scope="module")
def holed_tables(paper_measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("holed_tables")
    write_tables(folder, paper_measured, summarise(paper_measured, {"two": ("cifar10", "pets")}))
    return folder


def _markdown_rows(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip").set_index(["dataset", "measure", "method"])


def test_the_four_tables_are_written_in_both_forms(tables: Path) -> None:
    names = {f"{name}.{form}" for name in (*FILE_NAMES.values(), "summary") for form in ("csv", "md")}
    assert {path.name for path in tables.iterdir()} == names


@pytest.mark.parametrize("stage", FILE_NAMES)
def test_csv_holds_the_scores_in_full_and_what_they_were_made_on(
    tables: Path, results: Path, grid: Grid, stage: str
) -> None:
    frame = _frame(tables / f"{FILE_NAMES[stage]}.csv")
    for method in grid.methods:
        scores = json.loads((results / stage / method / "seed0" / "scores.json").read_text())["openclipart"]
        for measure in grid.measures(stage, "openclipart"):
            row = frame.loc[("openclipart", measure, method)]
            assert row["mean"] == scores[measure]
            assert row["chance"] == scores[f"chance_{measure}"]
            assert row["low"] <= row["mean"] <= row["high"]
            assert row["above_chance"] == (row["low"] > row["chance"])
            assert (row["title"], row["n_seeds"]) == (METHODS[method].title, 1)
            assert (row["label_hash"], row["split"], row["evaluator"]) == ("hash-of-openclipart", "test", 2)
            assert (row["metric"], row["n"]) == (METRICS.get(stage, "accuracy"), scores["n"])
    assert "std" not in frame
    assert "seed_low" not in frame


@pytest.mark.parametrize("stage", FILE_NAMES)
def test_markdown_holds_the_numbers_of_the_csv_in_percent_and_marks_chance(
    tables: Path, grid: Grid, stage: str
) -> None:
    frame = _frame(tables / f"{FILE_NAMES[stage]}.csv")
    text = (tables / f"{FILE_NAMES[stage]}.md").read_text()
    rows, measures = _markdown_rows(text), grid.measures(stage, "openclipart")
    assert rows["Method"] == [measure_title(measure) for measure in measures]
    for method in grid.methods:
        cells = [frame.loc[("openclipart", measure, method)] for measure in measures]
        expected = [f"{100 * row['mean']:.1f}{'' if row['above_chance'] else ' †'}" for row in cells]
        assert rows[title_of(method)] == expected
    chances = [frame.loc[("openclipart", measure, "reference"), "chance"] for measure in measures]
    assert rows["Chance"] == [f"{100 * chance:.1f}" for chance in chances]
    assert ("† at chance: the 95% bootstrap interval" in text) == (not frame["above_chance"].all())
    assert "openclipart: test split" in text
    facts = f"metric {METRICS.get(stage, 'accuracy')}, labels hash-of-openclipart, evaluator 2, from parquet: made."
    assert facts in text


def test_spread_and_interval_over_seeds_stand_beside_the_mean(wide_tables: Path, wide_grid: Grid) -> None:
    frame = _frame(wide_tables / "zero_shot.csv")
    values = wide_grid.values("eval_zeroshot", "ncu", "second", "top1")
    row = frame.loc[("second", "top1", "ncu")]
    assert row["n_seeds"] == 3
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (row["seed_low"], row["seed_high"]) == pytest.approx((low, high))
    of_second = (wide_tables / "zero_shot.md").read_text().split("## second")[1]
    cell = f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"
    assert _markdown_rows(of_second)["NCU"][0].removesuffix(" †") == cell
    summary = (wide_tables / "summary.md").read_text()
    assert "over 3 seeds" in summary
    assert "zero-shot classification: 2, openclipart, second; linear probe: 2, openclipart, second" in summary


def test_a_missing_set_is_named_wherever_it_is_missing(holed_tables: Path) -> None:
    holes = pd.read_csv(holed_tables / "holes.csv")
    assert holes.to_dict("records") == [{"dataset": "cars", "hole": HOLE}]
    frame = pd.read_csv(holed_tables / "zero_shot.csv").set_index("dataset")
    assert frame.loc["cars", "hole"] == HOLE
    assert pd.isna(frame.loc["cars", "mean"])
    assert f"— cars: {HOLE}" in (holed_tables / "zero_shot.md").read_text()
    text = (holed_tables / "summary.md").read_text()
    assert "- — Zero-shot top-1 (5 sets): not given, needs cars." in text
    assert f"- — cars: {HOLE}" in text
    rows = _markdown_rows(text.split("## Against")[0])
    by_title = dict(zip(rows["Method"], rows["NCU"], strict=True))
    assert by_title["Zero-shot top-1 (5 sets)"] == "—"
    assert re.fullmatch(r"\d+\.\d( †)?", by_title["Zero-shot top-1 (two, 2 sets)"])
    assert "zero-shot classification, two: 2, cifar10, pets" in text


def test_an_evaluation_without_data_sets_says_so(measured: Measured, tmp_path: Path) -> None:
    nothing = {
        key: cell if key[0] != "eval_retrieval" else dataclasses.replace(cell, scores={}, outcomes={})
        for key, cell in measured.grid.cells.items()
    }
    bare = dataclasses.replace(measured, grid=dataclasses.replace(measured.grid, cells=nothing))
    write_tables(tmp_path, bare, summarise(bare))
    assert "No data set of this experiment is for this evaluation." in (tmp_path / "retrieval.md").read_text()
    assert pd.read_csv(tmp_path / "retrieval.csv").empty
    assert "Mean recall: not given, needs a data set." in (tmp_path / "summary.md").read_text()


def test_the_summary_gives_scores_then_differences_to_the_control(tables: Path, summary: Summary) -> None:
    text = (tables / "summary.md").read_text()
    scores, differences = text.split("## Against the equal-compute control")
    frame = pd.read_csv(tables / "summary.csv").set_index("method")
    for headline in HEADLINES:
        assert f" {100 * frame.loc['ncu', f'{headline.key}/mean']:.1f}" in scores
        low, high = (100 * frame.loc["ncu", f"{headline.key}/minus_control_{end}"] for end in ("low", "high"))
        assert f"[{low:+.1f}, {high:+.1f}]" in differences
    assert f"| {title_of('continued')}" in scores
    assert f"| {title_of('continued')}" not in differences
    assert "Gradient ascent does not beat the equal-compute control" in differences


def test_a_cell_at_chance_is_marked(summary: Summary) -> None:
    cells = {
        key: dataclasses.replace(
            cell, score=dataclasses.replace(cell.score, chance=float(key == ("ncu", "mean_recall")))
        )
        for key, cell in summary.cells.items()
    }
    text = summary_markdown(dataclasses.replace(summary, cells=cells))
    marked = [line for line in text.splitlines() if line.startswith("|") and "†" in line]
    assert len(marked) == 1
    assert re.search(r"^\| NCU .*\d † \|$", marked[0])


def test_a_probe_that_is_not_at_its_optimum_is_named(measured: Measured, tmp_path: Path) -> None:
    grid, key = measured.grid, ("eval_probe", "ncu", 0)
    scores = {"openclipart": {**grid.cells[key].scores["openclipart"], "converged": False}}
    cells = {**grid.cells, key: dataclasses.replace(grid.cells[key], scores=scores)}
    stopped = dataclasses.replace(measured, grid=dataclasses.replace(grid, cells=cells))
    write_tables(tmp_path, stopped, summarise(stopped))
    assert "- Not converged: NCU on openclipart." in (tmp_path / "linear_probe.md").read_text()
    frame = _frame(tmp_path / "linear_probe.csv")
    assert frame.loc[("openclipart", "accuracy", "ncu"), "converged"] == np.False_
    assert frame.loc[("openclipart", "accuracy", "continued"), "converged"] == np.True_
    assert "converged" not in _frame(tmp_path / "zero_shot.csv")
