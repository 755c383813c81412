"""The paper's values, computed again from each other: a wrong digit in a cell would show in an average or a gain."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.paper.values import PaperRow, PaperTable, read_paper
from tests.unit.paths import REPOSITORY

PATH = REPOSITORY / "resources" / "paper" / "tables.yaml"
PAPER = read_paper(PATH)
HALF_A_DIGIT = 0.05 + 1e-9
EXPERIMENTS = {
    ("CC3M", "ViT-B/16"), ("CC12M", "ViT-B/16"), ("CC3M", "ViT-B/32"), ("CC12M", "ViT-B/32"), ("YFCC15M-R", "ViT-B/32"),
}  # fmt: skip


def _rows() -> list[tuple[str, PaperTable, PaperRow]]:
    return [(name, table, row) for name, table in PAPER.tables.items() for row in table.rows]


def _value(table: PaperTable, row: PaperRow, key: str) -> float:
    return row.values[[column.key for column in table.columns].index(key)]


def test_every_printed_average_is_that_of_its_cells() -> None:
    checked = 0
    for _, table, row in _rows():
        for column in (column for column in table.columns if column.average):
            cells = [_value(table, row, member.key) for member in table.members(column)]
            assert sum(cells) / len(cells) == pytest.approx(_value(table, row, column.key), abs=HALF_A_DIGIT)
            checked += 1
    assert checked == 10 + 2 * 8


def test_every_printed_gain_is_that_of_its_cells() -> None:
    checked = 0
    for _, table, row in _rows():
        first = next(one for one in table.rows if (one.corpus, one.architecture) == (row.corpus, row.architecture))
        for key, gain in row.gains.items():
            assert _value(table, row, key) - _value(table, first, key) == pytest.approx(gain, abs=HALF_A_DIGIT)
            checked += 1
    assert checked == 5 * 2 + 4 * 2 + 4 * 3 + 4 * 2


def test_tables_agree_where_they_print_the_same_number() -> None:
    imagenet = {
        (row.corpus, row.architecture, row.model): _value(PAPER.tables["table1"], row, "ImageNet1K")
        for row in PAPER.tables["table1"].rows
    }
    for name in ("table4", "table5"):
        for row in PAPER.tables[name].rows:
            assert imagenet.get((row.corpus, row.architecture, row.model), row.values[0]) == row.values[0]


@pytest.mark.parametrize("name", ["table1", "table3"])
def test_the_large_tables_have_every_experiment_with_both_models(name: str) -> None:
    rows = PAPER.tables[name].rows
    assert {(row.corpus, row.architecture) for row in rows} == EXPERIMENTS
    assert len(rows) == 2 * len(EXPERIMENTS)
    assert len(PAPER.printed(name, "CC3M", "ViT-B/16")) == 2 * len(PAPER.tables[name].columns)


def test_every_value_is_a_percentage_and_the_reading_of_table_3_is_plausible() -> None:
    assert all(0 < value < 100 for _, _, row in _rows() for value in row.values)
    zero_shot, probe = (PAPER.tables[name] for name in ("table1", "table3"))
    for row in probe.rows:
        same = next(
            one for one in zero_shot.rows
            if (one.corpus, one.architecture, one.model) == (row.corpus, row.architecture, row.model)
        )  # fmt: skip
        for column in probe.columns:
            assert _value(probe, row, column.key) > _value(zero_shot, same, column.key)
        assert max(row.values) == _value(probe, row, "OxfordPets")
        assert min(row.values) == _value(probe, row, "ImageNet1K")


def test_names_are_those_of_our_methods_and_data_sets() -> None:
    assert set(PAPER.methods.values()) <= set(METHODS)
    table = yaml.safe_load((REPOSITORY / "config" / "datasets.yaml").read_text())
    for heading, rows in PAPER.datasets.items():
        assert set(rows) <= set(table), heading


def test_a_file_that_lacks_a_value_is_refused(tmp_path: Path) -> None:
    raw = yaml.safe_load(PATH.read_text())
    raw["tables"]["table1"]["rows"][0]["values"].pop()
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(PipelineError, match="CC3M, ViT-B/16, CLIP: not one value per column"):
        read_paper(tmp_path / "torn.yaml")
    raw = yaml.safe_load(PATH.read_text())
    raw["tables"]["table3"]["columns"][0]["dataset"] = "SUN398"
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(PipelineError, match="SUN398 are neither datasets nor methods"):
        read_paper(tmp_path / "torn.yaml")
    del raw["tables"]["table5"]
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(PipelineError, match=r"Take resources/paper/tables\.yaml as it came"):
        read_paper(tmp_path / "torn.yaml")
