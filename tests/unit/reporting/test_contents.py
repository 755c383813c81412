from __future__ import annotations

from pathlib import Path

from pipeline_steps.core.schema import MakeTablesConfig
from pipeline_steps.reporting.contents import write_contents
from pipeline_steps.reporting.measured import Measured
from pipeline_steps.reporting.paper.layout import lay_out
from pipeline_steps.reporting.paper.values import Paper
from pipeline_steps.reporting.summary import Summary, summarise
from pipeline_steps.reporting.tables import write_tables
from tests.unit.reporting.conftest import HOLE

SETTINGS = MakeTablesConfig(100, 0.95, "by_set", {}, None)


def test_what_is_there_what_is_not_and_why(paper: Paper, paper_measured: Measured, tmp_path: Path) -> None:
    summary = summarise(paper_measured)
    write_tables(tmp_path, paper_measured, summary)
    laid, absent = lay_out(paper, paper_measured, SETTINGS)
    (tmp_path / "table1.md").write_text("")
    (tmp_path / "table1.tex").write_text("")
    write_contents(tmp_path, laid, absent, summary)
    text = (tmp_path / "README.md").read_text()
    assert "- `table1` (.md, .tex): Table 1 of the paper: Zero-shot transfer" in text
    assert "- `zero_shot` (.csv, .md): every data set" in text
    assert f"- cars: {HOLE}" in text
    assert "`make_tables.averages`" in text
    assert "overlap" not in text
    assert "percentile bootstrap" in text


def test_tables_that_are_not_written_have_a_line_each(
    paper: Paper, measured: Measured, summary: Summary, tmp_path: Path
) -> None:
    laid, absent = lay_out(paper, measured, SETTINGS)
    write_contents(tmp_path, laid, absent, summary)
    text = (tmp_path / "README.md").read_text()
    assert "- Table 5: methods ncu_v1, ncu_v2, ncu_v3, ncu_v4 are not in `methods`." in text
    assert text.count("- Table ") == 5
    assert "could not be had" not in text
