"""The paper's tables as CSV (fractions, full precision), Markdown and LaTeX (percent, as the paper prints them)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Score, score_columns
from pipeline_steps.reporting.names import AT_CHANCE, MISSING
from pipeline_steps.reporting.paper.layout import Filled, LaidTable
from pipeline_steps.reporting.tables import chance_note, seeds_sentence
from pipeline_steps.reporting.text_table import text_table

PAPERS_ROW, DIFFERENCE_ROW = "↳ paper", "↳ difference"
# After LaTeX's own characters are escaped: ours, as commands of plain LaTeX.
_COMMANDS = {
    "†": r"\textsuperscript{\dag}", "‡": r"\textsuperscript{\ddag}", "§": r"\textsuperscript{\S}", "±": r"$\pm$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "↳": r"$\hookrightarrow$", "—": "---", "−": "$-$", "“": "``", "”": "''",
}  # fmt: skip
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def write_paper_tables(folder: Path, laid: list[LaidTable], grid: Grid, confidence: float) -> None:
    """Write `table<k>.csv`, `.md` and `.tex` of every laid-out table into an existing folder."""
    for table in laid:
        paper_frame(table, grid).to_csv(folder / f"{table.name}.csv", index=False)
        notes = _all_notes(table, grid, confidence)
        (folder / f"{table.name}.md").write_text(paper_markdown(table, notes), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(paper_latex(table, notes), encoding="utf-8")


def paper_frame(table: LaidTable, grid: Grid) -> pd.DataFrame:
    """A row per method. A column per heading with our value, and `<heading>/<what>`: std, low, high, seed_low,
    seed_high, chance, above_chance, dataset, measure, paper, minus_paper; empty where undefined."""
    rows = []
    for method, cells in table.rows.items():
        row: dict[str, object] = {"method": method, "title": table.row_title(method), "n_seeds": len(grid.seeds)}
        for column, cell in zip(table.columns, cells, strict=True):
            key = column.of_paper.key
            parts = score_columns(cell.score) if cell.score else {}
            row[key] = parts.pop("mean", None)
            row |= {f"{key}/{name}": value for name, value in parts.items()}
            row |= {f"{key}/dataset": column.dataset or None, f"{key}/needs": " ".join(column.needs) or None}
            row[f"{key}/measure"] = column.places[0].measure if column.dataset and column.places else None
            row |= {f"{key}/paper": cell.printed, f"{key}/minus_paper": _minus_paper(cell)}
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def paper_markdown(table: LaidTable, notes: list[str]) -> str:
    """The table for reading: under each of our rows, where the paper has values, its row and the difference."""
    header = ["Model", *(" ".join(part for part in (*c.of_paper.groups, c.title) if part) for c in table.columns)]
    parts = [f"# {_number(table)}: {table.caption}", text_table(header, list(_body(table)), "pipe")]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def paper_latex(table: LaidTable, notes: list[str]) -> str:
    """The same as a `table*` of booktabs: `\\usepackage{booktabs,graphicx}` is all that it needs."""
    levels = max(len(column.of_paper.groups) for column in table.columns)
    lines = [
        r"\begin{table*}",
        r"\centering\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_escaped(table.caption)}.}}",
        rf"\label{{tab:{table.name}}}",
        r"\vspace{4pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
    ]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    for level in range(levels):
        lines += _group_lines([column.of_paper.groups[level] for column in table.columns])
    lines += [_line(["Model", *(column.title for column in table.columns)]), r"\midrule"]
    lines += [_line(row) for row in _body(table)]
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip\footnotesize\raggedright"]
    lines += [rf"{_escaped(note)}\par" for note in notes]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _number(table: LaidTable) -> str:
    return f"Table {table.name.removeprefix('table')}"


def _body(table: LaidTable) -> Iterator[list[str]]:
    for method, cells in table.rows.items():
        yield [table.row_title(method), *(_text(cell, table.decimals) for cell in cells)]
        if any(cell.printed is not None for cell in cells):
            printed = [cell.printed for cell in cells]
            yield [PAPERS_ROW, *("" if one is None else f"{100 * one:.{table.decimals}f}" for one in printed)]
            differences = [_minus_paper(cell) for cell in cells]
            yield [DIFFERENCE_ROW, *("" if one is None else f"{100 * one:+.{table.decimals}f}" for one in differences)]


def _text(cell: Filled, decimals: int) -> str:
    if cell.score is None:
        return MISSING
    gain = ""
    if cell.gain is not None:
        gain = f" {'↓' if cell.gain < 0 else '↑'}{abs(100 * cell.gain):.{decimals}f}"
    return f"{_percent(cell.score, decimals)}{gain}{'' if cell.score.above_chance else f' {AT_CHANCE}'}"


def _percent(score: Score, decimals: int) -> str:
    spread = "" if score.std is None else f" ± {100 * score.std:.{decimals}f}"
    return f"{100 * score.mean:.{decimals}f}{spread}"


def _minus_paper(cell: Filled) -> float | None:
    return cell.score.mean - cell.printed if cell.score and cell.printed is not None else None


def _all_notes(table: LaidTable, grid: Grid, confidence: float) -> list[str]:
    cells = [cell for row in table.rows.values() for cell in row]
    notes = [seeds_sentence(grid.seeds), *table.notes]
    if any(cell.score and not cell.score.above_chance for cell in cells):
        notes.append(chance_note(confidence).removeprefix("- "))
    return notes


def _group_lines(groups: list[str]) -> list[str]:
    """A line of headings over the columns that share one, and the rules under them."""
    spans: list[list[int]] = []
    for place, group in enumerate(groups):
        if spans and groups[spans[-1][0]] == group:
            spans[-1][1] = place
        else:
            spans.append([place, place])
    cells = [rf"\multicolumn{{{last - first + 1}}}{{c}}{{{_escaped(groups[first])}}}" for first, last in spans]
    rules = [rf"\cmidrule(lr){{{first + 2}-{last + 2}}}" for first, last in spans if groups[first]]
    return [f" & {' & '.join(cells)} \\\\", "".join(rules)]


def _line(cells: list[str]) -> str:
    """A row; hyphens before numbers are minus signs."""
    return " & ".join(re.sub(r"^-(?=\d)", "$-$", _escaped(cell)) for cell in cells) + r" \\"


def _escaped(text: str) -> str:
    """Text for LaTeX: its special characters escaped, our marks as commands."""
    table = {**_SPECIAL, **_COMMANDS}
    return "".join(table.get(character, character) for character in text)
