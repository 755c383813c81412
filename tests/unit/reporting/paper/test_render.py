from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.core.schema import MakeTablesConfig, PaperConfig
from pipeline_steps.reporting.measured import Measured
from pipeline_steps.reporting.paper.layout import LaidTable, lay_out
from pipeline_steps.reporting.paper.render import paper_latex, paper_markdown, write_paper_tables
from pipeline_steps.reporting.paper.values import Paper

SETTINGS = MakeTablesConfig(100, 0.95, "by_set", {}, PaperConfig("CC3M", "ViT-B/16"))
NAMES = ("table1", "table2", "table3", "table4", "table5")


@pytest.fixture(scope="module")
def laid(paper: Paper, paper_measured: Measured) -> list[LaidTable]:
    return lay_out(paper, paper_measured, SETTINGS)[0]


@pytest.fixture(scope="module")
def folder(laid: list[LaidTable], paper_measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tables")
    write_paper_tables(found, laid, paper_measured.grid, 0.95)
    return found


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_every_table_is_written_in_three_forms(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{n}.{form}" for n in NAMES for form in ("csv", "md", "tex")}


def test_csv_holds_fractions_the_papers_value_and_the_difference(folder: Path, paper_measured: Measured) -> None:
    frame = pd.read_csv(folder / "table1.csv", float_precision="round_trip").set_index("method")
    value = paper_measured.grid.values("eval_zeroshot", "ncu", "imagenet1k", "top1")[0]
    row = frame.loc["ncu"]
    assert row["ImageNet1K"] == pytest.approx(value, rel=1e-12)
    assert row["ImageNet1K/paper"] == pytest.approx(0.2)
    assert row["ImageNet1K/minus_paper"] == pytest.approx(value - 0.2)
    assert row["ImageNet1K/low"] <= value <= row["ImageNet1K/high"]
    assert (row["EuroSAT/dataset"], row["OxfordPets/measure"]) == ("eurosat_vtab", "mean_per_class")
    assert row["StanfordCars/needs"] == "cars"
    assert "StanfordCars" not in frame
    assert pd.isna(frame.loc["continued", "ImageNet1K/paper"])


def test_markdown_has_the_papers_row_and_the_difference_under_ours(folder: Path) -> None:
    header, _, *rows = _rows((folder / "table4.md").read_text())
    frame = pd.read_csv(folder / "table4.csv").set_index("title")
    assert header == ["Model", "ImageNet1K"]
    assert [row[0] for row in rows][:3] == ["CLIP (reference)", "↳ paper", "↳ difference"]
    assert [row[0] for row in rows][-1] == "CLIP, trained on (equal compute) §"
    place = [row[0] for row in rows].index("NCU")
    ours, gain = frame.loc["NCU", "ImageNet1K"], frame.loc["NCU", "ImageNet1K"] - frame.iloc[0]["ImageNet1K"]
    arrow = "↑" if gain >= 0 else "↓"
    assert rows[place][1].removesuffix(" †") == f"{100 * ours:.1f} {arrow}{abs(100 * gain):.1f}"
    assert rows[place + 1][1] == "20.0"
    assert rows[place + 2][1] == f"{100 * ours - 20:+.1f}"


def test_a_missing_set_is_a_dash_with_its_reason_below(folder: Path) -> None:
    text = (folder / "table1.md").read_text()
    header, _, *rows = _rows(text)
    column = header.index("StanfordCars")
    assert {row[column] for row in rows if not row[0].startswith("↳")} == {"—"}
    assert [row[column] for row in rows if row[0] == "↳ paper"] == ["0.8", "1.5"]
    assert "- — StanfordCars: cars cannot be had: put it into data/evaluation/cars" in text


def test_a_cell_at_chance_is_marked_and_said(laid: list[LaidTable], paper_measured: Measured, tmp_path: Path) -> None:
    table = laid[3]
    rows = {
        method: tuple(dataclasses.replace(cell, score=cell.score and dataclasses.replace(cell.score, chance=chance))
                      for cell in cells)
        for (method, cells), chance in zip(table.rows.items(), (1.0, 0.0, 0.0, 0.0), strict=True)
    }  # fmt: skip
    write_paper_tables(tmp_path, [dataclasses.replace(table, rows=rows)], paper_measured.grid, 0.95)
    text = (tmp_path / "table4.md").read_text()
    assert [row[0] for row in _rows(text) if "†" in row[1]] == ["CLIP (reference)"]
    assert "† at chance: the 95% bootstrap interval" in text
    assert r"\textsuperscript{\dag}" in (tmp_path / "table4.tex").read_text()


def test_table_3_has_two_decimals_as_printed(folder: Path) -> None:
    rows = _rows((folder / "table3.md").read_text())
    assert rows[3][1:] == ["62.20", "48.13"]
    assert re.fullmatch(r"[+-]\d+\.\d\d", rows[4][1])


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_well_formed(folder: Path, name: str) -> None:
    text = (folder / f"{name}.tex").read_text()
    assert text.isascii()
    stack: list[str] = []
    for kind, environment in re.findall(r"\\(begin|end)\{([\w*]+)\}", text):
        if kind == "begin":
            stack.append(environment)
        else:
            assert stack.pop() == environment
    assert not stack
    plain = re.sub(r"\\[\\{}%&#$_]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(l+r+)\}", text)
    for line in (line for line in body.splitlines() if line.endswith(r"\\")):
        spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        cells = len(re.findall(r"(?<!\\)&", line)) + 1
        assert cells - len(spans) + sum(spans) == len(columns), line
    assert body.count(r"\midrule") == 1
    assert not re.search(r"(?<!\\)[%#_]", body)


def test_latex_groups_columns_as_the_paper_does(folder: Path) -> None:
    text = (folder / "table2.tex").read_text()
    assert r" & \multicolumn{7}{c}{MSCOCO 5K} \\" in text
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" + "\n" in text
    assert r"\multicolumn{3}{c}{Image-to-Text} & \multicolumn{3}{c}{Text-to-Image} & \multicolumn{1}{c}{}" in text


def test_special_characters_are_escaped(laid: list[LaidTable]) -> None:
    table = dataclasses.replace(laid[3], caption="50% of A_B & {C}", notes=())
    text = paper_latex(table, [r"a\b ~ ^ # $5 — “x” ± ↳ <>|"])
    assert r"\caption{50\% of A\_B \& \{C\}.}" in text
    assert (
        r"a\textbackslash{}b \textasciitilde{} \textasciicircum{} \# \$5 --- ``x'' $\pm$ $\hookrightarrow$ "
        r"\textless{}\textgreater{}\textbar{}" in text
    )
    assert paper_markdown(table, ["a note"]).startswith("# Table 4: 50% of A_B & {C}\n")
