"""The paper's tables as data: their layout, which of our data sets and methods they mean, and the printed values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from pipeline_steps.core.checking import checked
from pipeline_steps.core.config import read_yaml
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.values import Name, Number, Section
from pipeline_steps.reporting.names import ZERO_SHOT

TABLES = ("table1", "table2", "table3", "table4", "table5")


class PaperColumn(Section, frozen=True):
    """A column: a data set by the paper's name, or an `average` of the columns before it, back to the last average.

    `groups` are the headings above `title`. `measure` is null for the one that the data set's metric asks for. `gain`
    says that an arrow beside a value gives its distance from the first row's.
    """

    title: str
    groups: tuple[str, ...] = ()
    dataset: str | None = None
    measure: str | None = None
    average: bool = False
    gain: bool = False

    @property
    def key(self) -> str:
        """The headings and the title in one line, unique in a table; in files and in `gains`."""
        return " ".join(part for part in (*self.groups, self.title) if part)


class PaperRow(Section, frozen=True):
    """A printed row: percent, in the order of the columns; `gains` by the column's key, as printed."""

    corpus: str
    architecture: str
    model: str
    values: tuple[Number, ...]
    gains: Mapping[str, Number] = field(default_factory=dict)


class PaperTable(Section, frozen=True):
    """A table of the paper; `decimals` of its percentages; `note` is what readers of its values must know."""

    caption: str
    evaluation: Literal["eval_zeroshot", "eval_probe", "eval_retrieval"]
    columns: tuple[PaperColumn, ...]
    rows: tuple[PaperRow, ...]
    decimals: int = 1
    note: str | None = None

    def __post_init__(self) -> None:
        keys = {column.key for column in self.columns}
        for row in self.rows:
            if len(row.values) != len(self.columns) or set(row.gains) - keys:
                raise ValueError(f"{row.corpus}, {row.architecture}, {row.model}: not one value per column")

    def members(self, average: PaperColumn) -> tuple[PaperColumn, ...]:
        """The columns that an average is the plain mean of."""
        before = self.columns[: self.columns.index(average)]
        start = max((place + 1 for place, column in enumerate(before) if column.average), default=0)
        return before[start:]


class PaperFigure(Section, frozen=True):
    """What a figure shows, and what the paper says about it."""

    shows: str
    says: tuple[str, ...]


class Paper(Section, frozen=True):
    """The whole file. `datasets` maps a heading to rows of config/datasets.yaml, the paper's split first."""

    source: str
    methods: Mapping[str, str]
    datasets: Mapping[str, Annotated[tuple[Name, ...], Meta(min_length=1)]]
    tables: Mapping[str, PaperTable]
    figures: Mapping[str, PaperFigure]

    def __post_init__(self) -> None:
        if absent := [name for name in TABLES if name not in self.tables]:
            raise ValueError(f"{', '.join(absent)} is missing in tables")
        for name in TABLES:
            table = self.tables[name]
            unknown = {column.dataset for column in table.columns if column.dataset} - set(self.datasets)
            unknown |= {row.model for row in table.rows} - set(self.methods)
            if unknown:
                raise ValueError(f"{name}: {', '.join(sorted(unknown))} are neither datasets nor methods of the file")

    def models(self, table: str) -> tuple[str, ...]:
        """The models of a table, in the paper's order."""
        return tuple(dict.fromkeys(row.model for row in self.tables[table].rows))

    def printed(self, table: str, corpus: str, architecture: str) -> dict[tuple[str, str], float]:
        """The values of one experiment as fractions, by our name of the method and the column's key."""
        return {
            (self.methods[row.model], column.key): value / 100
            for row in self.tables[table].rows
            if (row.corpus, row.architecture) == (corpus, architecture)
            for column, value in zip(self.tables[table].columns, row.values, strict=True)
        }


def read_paper(path: Path) -> Paper:
    """Read the file. Raises PipelineError when it has not the form of resources/paper/tables.yaml."""
    paper, problems = checked(read_yaml([path]), Paper)
    if paper is None:
        raise PipelineError(
            f"{path} has not the form of the paper's tables ({'; '.join(problems)}). "
            "Take resources/paper/tables.yaml as it came."
        )
    return paper


def default_measure(stage: str, metric: str, class_metric: str) -> str:
    """The measure of a classification set: `metric` is its row's, `class_metric` is make_tables'.

    Raises PipelineError for a metric that classification does not have.
    """
    plain = "top1" if stage == ZERO_SHOT else "accuracy"
    by_metric = {"accuracy": plain, "mean_per_class": "mean_per_class"}
    if metric in by_metric and class_metric == "top1":
        return plain
    if metric not in by_metric:
        raise PipelineError(f"a data set of {stage} has metric {metric!r}; allowed are {', '.join(by_metric)}")
    return by_metric[metric]
