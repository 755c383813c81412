from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.names import HEADLINES, title_of
from pipeline_steps.reporting.statistics import Bootstrap
from pipeline_steps.reporting.summary import Summary, summarise
from pipeline_steps.reporting.tables import FILE_NAMES, summary_markdown, write_tables


@pytest.fixture(scope="module")
def tables(grid: Grid, summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder, grid, summary)
    return folder


def _markdown_rows(path: Path) -> dict[str, list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in path.read_text().splitlines() if "|" in line
    ]
    return {row[0]: row[1:] for row in rows}


def test_the_four_tables_are_written_in_both_forms(tables: Path) -> None:
    names = {f"{name}.{form}" for name in (*FILE_NAMES.values(), "summary") for form in ("csv", "md")}
    assert {path.name for path in tables.iterdir()} == names


@pytest.mark.parametrize("stage", FILE_NAMES)
def test_csv_holds_the_scores_in_full(tables: Path, results: Path, grid: Grid, stage: str) -> None:
    frame = pd.read_csv(tables / f"{FILE_NAMES[stage]}.csv", float_precision="round_trip").set_index("method")
    assert list(frame.index) == [*grid.methods, "chance"]
    for method in grid.methods:
        scores = json.loads((results / stage / method / "seed0" / "scores.json").read_text())["openclipart"]
        assert frame.loc[method, "title"] == METHODS[method].title
        assert frame.loc[method, "n_seeds"] == 1
        for measure in grid.measures(stage, "openclipart"):
            assert frame.loc[method, f"openclipart/{measure}/mean"] == scores[measure]
            assert pd.isna(frame.loc[method, f"openclipart/{measure}/std"])
            assert frame.loc["chance", f"openclipart/{measure}/mean"] == scores[f"chance_{measure}"]
        assert frame.loc[method, "openclipart/label_hash"] == "hash-of-openclipart"
        assert frame.loc[method, "openclipart/split"] == "test"


@pytest.mark.parametrize("stage", FILE_NAMES)
def test_markdown_holds_the_numbers_of_the_csv_in_percent(tables: Path, grid: Grid, stage: str) -> None:
    frame = pd.read_csv(tables / f"{FILE_NAMES[stage]}.csv").set_index("title")
    rows = _markdown_rows(tables / f"{FILE_NAMES[stage]}.md")
    columns = [f"openclipart/{measure}/mean" for measure in grid.measures(stage, "openclipart")]
    for title, row in frame.iterrows():
        assert rows[str(title)] == [f"{100 * row[column]:.1f}" for column in columns]


def test_spread_over_seeds_stands_beside_the_mean(wide_grid: Grid, tmp_path: Path) -> None:
    write_tables(tmp_path, wide_grid, summarise(wide_grid, Bootstrap(20, 0.95, 0)))
    frame = pd.read_csv(tmp_path / "zero_shot.csv").set_index("method")
    values = wide_grid.values("eval_zeroshot", "ncu", "second", "top1")
    assert frame.loc["ncu", "n_seeds"] == 3
    assert frame.loc["ncu", "second/top1/mean"] == pytest.approx(values.mean())
    assert frame.loc["ncu", "second/top1/std"] == pytest.approx(values.std(ddof=1))
    cell = f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"
    assert cell in _markdown_rows(tmp_path / "zero_shot.md")["NCU"]
    assert "second: top-1" in _markdown_rows(tmp_path / "zero_shot.md")["Method"]
    summary = (tmp_path / "summary.md").read_text()
    assert "over 3 seeds" in summary
    assert "zero-shot classification: openclipart, second; linear probe: openclipart, second" in summary


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
        key: dataclasses.replace(cell, chance=1.0 if key == ("ncu", "mean_recall") else 0.0)
        for key, cell in summary.cells.items()
    }
    text = summary_markdown(dataclasses.replace(summary, cells=cells))
    marked = [line for line in text.splitlines() if line.startswith("|") and "†" in line]
    assert len(marked) == 1
    assert re.search(r"^\| NCU .*\d † \|$", marked[0])
