"""Rows of evaluation sets: what a row may say, and what is told when it says something else."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_steps.core.config import ConfigError, load_section
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.core.schema.datasets import NcuSource, ParquetSource

NCU = {"kind": "ncu", "folder": "x", "splits": {"test": "test"}}
PARQUET = {"kind": "parquet", "path": "x", "splits": {"test": "test"}, "label_column": "label"}
ROW: dict[str, Any] = {
    "title": "A", "tasks": ["classification"], "metric": "accuracy", "n": {"test": 10}, "classes": 2, "sources": [NCU],
}  # fmt: skip


def _load(**changes: Any) -> DatasetRow:
    return load_section({"a": {**ROW, **changes}}, "a", DatasetRow)


def test_sources_are_told_apart_by_their_kind() -> None:
    row = _load(sources=[NCU, PARQUET])
    assert [type(source) for source in row.sources] == [NcuSource, ParquetSource]
    assert (row.classnames, row.templates, row.folds) == ("source", "imagenet1k", None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "a.sources = []: allowed is"),
        ({"sources": [{**NCU, "kind": "tar"}]}, "a.sources.0"),
        (
            {"sources": [{**NCU, "foldr": "y"}]},
            "did you mean `folder`? allowed here: folder, kind, link_roots, splits",
        ),
        ({"sources": [{**NCU, "splits": {"dev": "dev"}}]}, "a.sources.0.splits.dev"),
        (
            {"sources": [{**NCU, "splits": {"train": "train"}}]},
            "splits has train, whose size `n` does not say",
        ),
        ({"sources": [{**NCU, "splits": {}}]}, "sources.0.splits has no test"),
        ({"sources": [{**PARQUET, "category_column": "c"}]}, "label_column and category_column are both set"),
        ({"sources": [{**PARQUET, "label_column": None}]}, "none of label_column, category_column and caption_column"),
        ({"sources": [{**PARQUET, "categories": {"a": ["b"]}}]}, "category_column and categories go together"),
        ({"n": {"train": 5}}, "n.test, the number of test pictures, is missing"),
        ({"n": {"test": None}}, "n.test, the number of test pictures, is missing"),
        ({"n": {"test": 0}}, "a.n.test = 0: allowed is a whole number at least 1"),
        ({"classes": None}, "`classes`, their number, belongs to every set with the task classification"),
        ({"tasks": ["retrieval"]}, "`classes`, their number, belongs to every set with the task classification"),
        ({"metric": "recall"}, "metric 'recall' does not fit the tasks classification"),
        ({"tasks": ["retrieval"], "classes": None}, "metric 'accuracy' does not fit the tasks retrieval"),
        ({"classnames": ["a", "b", "c"]}, "3 class names are listed for 2 classes"),
        ({"templates": ["a photo of a {}."]}, "a photo of a {}."),
        ({"tasks": ["classification", "retrieval"], "folds": 3}, "10 pictures do not fall into 3 equal folds"),
        ({"title": ""}, "a.title"),
        ({"colour": "red"}, "a.colour = 'red': unknown key"),
    ],
)
def test_what_a_row_may_not_say_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(**changes)
    assert words in str(caught.value)
