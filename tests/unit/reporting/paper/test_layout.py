from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import MakeTablesConfig, PaperConfig
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Measured, measure_grid
from pipeline_steps.reporting.paper.layout import LaidTable, classification_places, lay_out
from pipeline_steps.reporting.paper.values import Paper, default_measure
from tests.unit.reporting.conftest import HOLE

OURS = MakeTablesConfig(100, 0.95, "by_set", {}, None)
THEIRS = replace(OURS, paper=PaperConfig("CC3M", "ViT-B/16"))


@pytest.fixture(scope="module")
def laid(paper: Paper, paper_measured: Measured) -> dict[str, LaidTable]:
    tables, _ = lay_out(paper, paper_measured, THEIRS)
    return {table.name: table for table in tables}


def _cell(table: LaidTable, method: str, key: str) -> object:
    place = [column.of_paper.key for column in table.columns].index(key)
    return table.rows[method][place]


def test_tables_have_the_papers_columns_that_were_evaluated_in_its_order(laid: dict[str, LaidTable]) -> None:
    assert [column.title for column in laid["table1"].columns] == [
        "CIFAR-10", "OxfordPets", "EuroSAT‡", "StanfordCars", "Average (15 sets)", "ImageNet1K",
    ]  # fmt: skip
    assert [column.of_paper.key for column in laid["table2"].columns][::3] == [
        "MSCOCO 5K Image-to-Text R@1", "MSCOCO 5K Text-to-Image R@1", "MSCOCO 5K Average",
    ]  # fmt: skip
    assert [column.title for column in laid["table3"].columns] == ["OxfordPets", "ImageNet1K"]


def test_rows_begin_as_the_papers_do_and_the_control_is_marked(laid: dict[str, LaidTable]) -> None:
    assert list(laid["table1"].rows) == ["reference", "ncu", "continued", "gradient_ascent", "ncu_v3", "ncu_500k"]
    assert list(laid["table4"].rows) == ["reference", "gradient_ascent", "ncu", "continued"]
    assert list(laid["table5"].rows) == ["ncu", "ncu_v3", "reference", "continued"]
    for table in laid.values():
        assert [method for method in table.rows if "§" in table.row_title(method)] == ["continued"]


def test_cells_hold_the_metric_of_the_set_and_the_printed_value(laid: dict[str, LaidTable], paper_grid: Grid) -> None:
    table = laid["table1"]
    for key, dataset, measure, printed in (
        ("OxfordPets", "pets", "mean_per_class", 0.163), ("CIFAR-10", "cifar10", "top1", 0.543),
        ("EuroSAT", "eurosat_vtab", "top1", 0.217), ("ImageNet1K", "imagenet1k", "top1", 0.2),
    ):  # fmt: skip
        cell = _cell(table, "ncu", key)
        assert cell.score.mean == pytest.approx(paper_grid.values("eval_zeroshot", "ncu", dataset, measure)[0])
        assert cell.printed == pytest.approx(printed)
        assert _cell(table, "continued", key).printed is None
    assert _cell(laid["table3"], "reference", "OxfordPets").printed == pytest.approx(0.622)
    assert any("Mean per class: OxfordPets;" in note for note in table.notes)


def test_top1_everywhere_is_one_key_away(paper: Paper, paper_measured: Measured) -> None:
    tables, _ = lay_out(paper, paper_measured, replace(OURS, class_metric="top1"))
    cell = _cell(tables[0], "ncu", "OxfordPets")
    assert cell.score.mean == pytest.approx(paper_measured.grid.values("eval_zeroshot", "ncu", "pets", "top1")[0])
    assert not any("Mean per class" in note for note in tables[0].notes)
    assert not any("Mean per class" in note for note in tables[2].notes)


def test_gains_are_over_the_first_row(laid: dict[str, LaidTable], paper_grid: Grid) -> None:
    values = {m: paper_grid.values("eval_zeroshot", m, "imagenet1k", "top1")[0] for m in paper_grid.methods}
    assert _cell(laid["table1"], "reference", "ImageNet1K").gain is None
    assert _cell(laid["table1"], "ncu", "ImageNet1K").gain == pytest.approx(values["ncu"] - values["reference"])
    assert _cell(laid["table5"], "ncu_v3", "ImageNet1K").gain == pytest.approx(values["ncu_v3"] - values["ncu"])
    assert _cell(laid["table1"], "ncu", "CIFAR-10").gain is None


def test_an_average_over_a_missing_set_is_not_given(laid: dict[str, LaidTable]) -> None:
    table = laid["table1"]
    assert all(_cell(table, method, "Average").score is None for method in table.rows)
    assert all(_cell(table, method, "StanfordCars").score is None for method in table.rows)
    (note,) = [note for note in table.notes if note.startswith("— Average: not given, needs cars, Caltech101")]
    assert "STL10" in note
    assert f"— StanfordCars: {HOLE}" in table.notes
    assert any(note.startswith("Not evaluated in this experiment: Caltech101, CIFAR-100") for note in table.notes)


def test_the_average_of_recalls_is_the_mean_recall(laid: dict[str, LaidTable], paper_grid: Grid) -> None:
    cell = _cell(laid["table2"], "ncu", "MSCOCO 5K Average")
    assert cell.score.mean == pytest.approx(paper_grid.values("eval_retrieval", "ncu", "mscoco", "mean_recall")[0])
    assert laid["table2"].columns[-1].title == "Average (6 recalls)"


def test_another_split_than_the_papers_is_marked(laid: dict[str, LaidTable]) -> None:
    (note,) = [note for note in laid["table1"].notes if note.startswith("‡")]
    assert note == "‡ EuroSAT: made on eurosat_vtab (test split, 96 pictures); the paper's split is that of eurosat."


def test_a_complete_table_gives_its_average(paper: Paper, paper_measured: Measured) -> None:
    whole = paper.tables["table1"]
    rows = tuple(replace(row, values=row.values[:3], gains={}) for row in whole.rows)
    columns = (whole.columns[1], whole.columns[9], whole.columns[15])
    table = replace(whole, rows=rows, columns=columns)
    small = replace(paper, tables={**paper.tables, "table1": table})
    tables, _ = lay_out(small, paper_measured, OURS)
    cell = _cell(tables[0], "reference", "Average")
    grid = paper_measured.grid
    values = [
        grid.values("eval_zeroshot", "reference", "cifar10", "top1")[0],
        grid.values("eval_zeroshot", "reference", "pets", "mean_per_class")[0],
    ]
    assert cell.score.mean == pytest.approx(np.mean(values))
    assert tables[0].columns[-1].title == "Average (2 sets)"


def test_a_recall_that_was_not_measured_is_named(paper: Paper, paper_measured: Measured) -> None:
    grid, missing = paper_measured.grid, "image_to_text_recall@10"
    cells = {}
    for key, cell in grid.cells.items():
        scores = {name: {k: v for k, v in entries.items() if missing not in k} for name, entries in cell.scores.items()}
        cells[key] = dataclasses.replace(cell, scores=scores)
    tables, _ = lay_out(paper, dataclasses.replace(paper_measured, grid=dataclasses.replace(grid, cells=cells)), OURS)
    table = next(table for table in tables if table.name == "table2")
    assert _cell(table, "ncu", "MSCOCO 5K Image-to-Text R@10").score is None
    assert _cell(table, "ncu", "MSCOCO 5K Average").score is None
    assert "— MSCOCO 5K Average: not given, needs image_to_text_recall@10 (in eval_retrieval.recall_at)." in table.notes


def test_tables_that_are_not_of_the_experiment_say_why(paper: Paper, measured: Measured, paper_grid: Grid) -> None:
    tables, absent = lay_out(paper, measured, OURS)
    assert tables == []
    assert absent["table1"].startswith("none of its sets is in prepare_dataset.datasets: caltech101, cifar10")
    assert absent["table2"] == "none of its sets is in prepare_dataset.datasets: flickr30k, mscoco"
    assert absent["table5"] == "methods ncu_v1, ncu_v2, ncu_v3, ncu_v4 are not in `methods`"
    assert absent["table4"] == "none of its sets is in prepare_dataset.datasets: imagenet1k"
    without = measure_grid(Grid(("reference", "ncu_v3"), (0,), paper_grid.cells), measured.bootstrap)
    tables, absent = lay_out(paper, without, OURS)
    assert absent["table5"] == "method ncu is not in `methods`, and the others are set against it"
    assert absent["table4"] == "methods gradient_ascent, softclip are not in `methods`"
    assert any("control (`continued`) is not in `methods`" in note for note in tables[0].notes)


def test_a_table_of_holes_alone_is_not_written(paper: Paper, paper_measured: Measured) -> None:
    grid = paper_measured.grid
    cells = {
        key: dataclasses.replace(cell, scores={}, holes=dict.fromkeys(cell.scores, "gone"))
        if key[0] == "eval_retrieval" else cell
        for key, cell in grid.cells.items()
    }  # fmt: skip
    bare = dataclasses.replace(paper_measured, grid=dataclasses.replace(grid, cells=cells))
    tables, absent = lay_out(paper, bare, OURS)
    assert "table2" not in {table.name for table in tables}
    assert absent["table2"].startswith("mscoco is missing (gone)")


def test_an_experiment_that_a_table_lacks_is_said(paper: Paper, paper_measured: Measured) -> None:
    settings = replace(OURS, paper=PaperConfig("CC12M", "ViT-B/16"))
    tables = {table.name: table for table in lay_out(paper, paper_measured, settings)[0]}
    assert "The paper has no values for CC12M, ViT-B/16 in this table." in tables["table2"].notes
    assert _cell(tables["table1"], "ncu", "CIFAR-10").printed == pytest.approx(0.793)
    assert not any("paper" in note for note in lay_out(paper, paper_measured, OURS)[0][1].notes)


def test_an_unknown_metric_is_refused(measured: Measured) -> None:
    assert default_measure("eval_probe", "accuracy", "top1") == "accuracy"
    with pytest.raises(PipelineError, match="has metric 'map'; allowed are accuracy, mean_per_class"):
        default_measure("eval_probe", "map", "by_set")
    assert {place.measure for place in classification_places(measured.grid, "by_set")} == {"top1", "accuracy"}
