"""The paper's tables filled with ours: their columns and rows, what is in each cell, and what must be said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline_steps.core.methods import REFERENCE
from pipeline_steps.core.schema import MakeTablesConfig
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Measured, Place, Score
from pipeline_steps.reporting.names import CONTROL, LINEAR_PROBE, MISSING, ZERO_SHOT, title_of
from pipeline_steps.reporting.paper.values import TABLES, Paper, PaperColumn, default_measure

CONTROL_MARK, OTHER_SPLIT = "§", "‡"
_OPTION = {"eval_retrieval": "eval_retrieval.recall_at", "eval_zeroshot": "eval_zeroshot.topk"}


@dataclass(frozen=True)
class Column:
    """A column that this experiment has something for: the mean over `places`, or nothing where it `needs` a set.

    `dataset` is ours, empty for an average; `other_split` says that the paper's split is another.
    """

    of_paper: PaperColumn
    dataset: str
    places: tuple[Place, ...]
    needs: tuple[str, ...]
    other_split: bool

    @property
    def title(self) -> str:
        """The heading, an average's with the number of what it is the mean of."""
        if not self.of_paper.average:
            return self.of_paper.title + (OTHER_SPLIT if self.other_split else "")
        members = len(self.places) + len(self.needs)
        return f"{self.of_paper.title} ({members} {'recalls' if self.of_paper.groups else 'sets'})"


@dataclass(frozen=True)
class Filled:
    """A cell, fractions: our score, its distance from the first row in columns with arrows, and the printed value."""

    score: Score | None
    gain: float | None
    printed: float | None


@dataclass(frozen=True)
class LaidTable:
    """A table in the paper's layout. `rows` maps our methods to cells in the order of `columns`."""

    name: str
    caption: str
    decimals: int
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[Filled, ...]]
    notes: tuple[str, ...]

    def row_title(self, method: str) -> str:
        """What people read for a method; the equal-compute control is marked."""
        return title_of(method) + (f" {CONTROL_MARK}" if method == CONTROL else "")


def lay_out(paper: Paper, measured: Measured, settings: MakeTablesConfig) -> tuple[list[LaidTable], dict[str, str]]:
    """The paper's tables that this experiment has sets and methods for; for the others, why they are not there."""
    laid, absent = [], {}
    for name in TABLES:
        columns = tuple(_columns(paper, name, measured, settings))
        reason = _why_not(paper, name, measured, columns)
        if reason:
            absent[name] = reason
        else:
            laid.append(_table(paper, name, measured, settings, columns))
    return laid, absent


def classification_places(grid: Grid, class_metric: str) -> list[Place]:
    """Every classification set by zero-shot and by the probe, in the measure that its metric asks for."""
    return [
        Place(stage, dataset, default_measure(stage, str(grid.entries(stage, dataset)["metric"]), class_metric))
        for stage in (ZERO_SHOT, LINEAR_PROBE)
        for dataset in grid.datasets(stage)
    ]


def _columns(paper: Paper, name: str, measured: Measured, settings: MakeTablesConfig) -> Iterator[Column]:
    table = paper.tables[name]
    own = {
        column.key: found
        for column in table.columns
        if not column.average and (found := _own_column(paper, name, column, measured, settings))
    }
    for column in table.columns:
        if not column.average:
            yield from [own[column.key]] if column.key in own else []
            continue
        members = table.members(column)
        present = [own[member.key] for member in members if member.key in own]
        if any(one.places for one in present):
            absent = [member.dataset or "" for member in members if member.key not in own]
            needs = (*(need for one in present for need in one.needs), *absent)
            yield Column(column, "", tuple(place for one in present for place in one.places), needs, False)


def _own_column(
    paper: Paper, name: str, column: PaperColumn, measured: Measured, settings: MakeTablesConfig
) -> Column | None:
    """A data set's column: the first of our rows for it that was scored, or else that is a hole; None of neither."""
    stage, grid = paper.tables[name].evaluation, measured.grid
    rows = paper.datasets[column.dataset or ""]
    dataset = next((row for row in rows if row in grid.datasets(stage)), None)
    if dataset is None:
        hole = next((row for row in rows if row in grid.holes(stage)), None)
        return Column(column, hole, (), (hole,), False) if hole else None
    metric = str(grid.entries(stage, dataset)["metric"])
    measure = column.measure or default_measure(stage, metric, settings.class_metric)
    if measure not in grid.measures(stage, dataset):
        return Column(column, dataset, (), (f"{measure} (in {_OPTION.get(stage, stage)})",), False)
    return Column(column, dataset, (Place(stage, dataset, measure),), (), dataset != rows[0])


def _why_not(paper: Paper, name: str, measured: Measured, columns: tuple[Column, ...]) -> str | None:
    wanted = [paper.methods[model] for model in paper.models(name)]
    of_its_own = [method for method in wanted if method not in (REFERENCE, "ncu")]
    if of_its_own and not set(of_its_own) & set(measured.grid.methods):
        return f"methods {', '.join(of_its_own)} are not in `methods`"
    if wanted[0] not in measured.grid.methods:
        return f"method {wanted[0]} is not in `methods`, and the others are set against it"
    if any(column.places for column in columns):
        return None
    holes = measured.grid.holes(paper.tables[name].evaluation)
    named = [f"{column.dataset} is missing ({holes[column.dataset]})" for column in columns if column.dataset in holes]
    sets = [paper.datasets[column.dataset][0] for column in paper.tables[name].columns if column.dataset]
    return "; ".join(named) or f"none of its sets is in prepare_dataset.datasets: {', '.join(dict.fromkeys(sets))}"


def _table(
    paper: Paper, name: str, measured: Measured, settings: MakeTablesConfig, columns: tuple[Column, ...]
) -> LaidTable:
    of_paper = paper.tables[name]
    printed = paper.printed(name, settings.paper.corpus, settings.paper.architecture) if settings.paper else {}
    rows: dict[str, tuple[Filled, ...]] = {}
    for method in _methods(paper, name, measured):
        first = next(iter(rows.values()), None)
        cells = []
        for place, column in enumerate(columns):
            score = measured.score(method, column.places) if column.places and not column.needs else None
            base = first[place].score if first and column.of_paper.gain else None
            gain = score.mean - base.mean if score and base else None
            cells.append(Filled(score, gain, printed.get((method, column.of_paper.key))))
        rows[method] = tuple(cells)
    notes = tuple(_notes(paper, name, measured, settings, columns))
    return LaidTable(name, of_paper.caption, of_paper.decimals, columns, rows, notes)


def _methods(paper: Paper, name: str, measured: Measured) -> list[str]:
    """The paper's methods first, in its order; then ours: all in Tables 1 to 3, reference and control in 4 and 5."""
    models = [paper.methods[model] for model in paper.models(name)]
    whole = set(models) <= {REFERENCE, "ncu"}
    others = measured.grid.methods if whole else (REFERENCE, CONTROL)
    return [method for method in dict.fromkeys((*models, *others)) if method in measured.grid.methods]


def _notes(
    paper: Paper, name: str, measured: Measured, settings: MakeTablesConfig, columns: tuple[Column, ...]
) -> Iterator[str]:
    table, grid = paper.tables[name], measured.grid
    yield from _notes_on_paper(paper, name, settings)
    if CONTROL in grid.methods:
        yield f"{CONTROL_MARK} the equal-compute control, which every claim is measured against."
    else:
        yield f"The equal-compute control (`{CONTROL}`) is not in `methods`, so it is not in this table."
    own = [column for column in columns if column.dataset and column.places]
    per_class = [column.of_paper.title for column in own if column.places[0].measure == "mean_per_class"]
    if per_class:
        yield f"Mean per class: {', '.join(per_class)}; the others are accuracies."
    for column in (column for column in own if column.other_split):
        facts, theirs = grid.entries(table.evaluation, column.dataset), paper.datasets[column.of_paper.dataset or ""][0]
        yield (
            f"{OTHER_SPLIT} {column.of_paper.title}: made on {column.dataset} ({facts.get('split')} split, "
            f"{facts.get('n', '?')} pictures); the paper's split is that of {theirs}."
        )
    yield from _notes_on_gaps(columns, grid.holes(table.evaluation))
    shown = {column.of_paper.key for column in columns}
    absent = [column.dataset for column in table.columns if column.dataset and column.key not in shown]
    if absent:
        yield f"Not evaluated in this experiment: {', '.join(dict.fromkeys(absent))}."


def _notes_on_paper(paper: Paper, name: str, settings: MakeTablesConfig) -> Iterator[str]:
    if not settings.paper:
        return
    corpus, architecture = settings.paper.corpus, settings.paper.architecture
    if not paper.printed(name, corpus, architecture):
        yield f"The paper has no values for {corpus}, {architecture} in this table."
        return
    source = paper.source.split(",")[0]
    yield f"Rows “paper”: {source}, {corpus}, {architecture}; differences are ours minus those."
    if paper.tables[name].note:
        yield str(paper.tables[name].note)


def _notes_on_gaps(columns: tuple[Column, ...], holes: Mapping[str, str]) -> Iterator[str]:
    for column in columns:
        if column.needs and column.dataset not in holes:
            yield f"{MISSING} {column.of_paper.key}: not given, needs {', '.join(dict.fromkeys(column.needs))}."
    for column in columns:
        if not column.places and column.dataset in holes:
            yield f"{MISSING} {column.of_paper.key}: {holes[column.dataset]}"
