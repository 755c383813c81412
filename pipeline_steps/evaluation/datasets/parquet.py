"""Evaluation sets from parquet: a row per picture, with its encoded bytes, and a label, a category or captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import ClassNameFile, ParquetSource
from pipeline_steps.data.embedded import caption_of
from pipeline_steps.data.parquet_file import DAMAGE, READ, damaged, reading
from pipeline_steps.evaluation.datasets.source import AbsentError, Entry, SourceSet, SourceSplit, placed

_BATCH_ROWS = 1024
_REMEDY = "Put it there again."


def read_parquet(source: ParquetSource, root: Path) -> SourceSet:
    """The set in `source.path`. Raises AbsentError without its test split, PipelineError for missing columns."""
    splits, missing = {}, {}
    for name, own in source.splits.items():
        path = placed(source.path.replace("{split}", own), root)
        if path.is_file():
            _require_columns(path, source)
            entries = _entries(path, source, own)
            splits[name] = SourceSplit(own, None, _distinct(entries) if source.distinct else entries)
        elif name == "test":
            raise AbsentError(f"{path} does not exist")
        else:
            missing[name] = f"{path} does not exist"
    test = placed(source.path.replace("{split}", source.splits["test"]), root)
    return SourceSet(f"parquet: {placed(source.path, root)}", splits, _class_names(test, source, root), missing=missing)


def class_index(categories: Sequence[Sequence[str]], category: str) -> int:
    """The one class whose categories hold `category` itself or a folder above it; -1 for none or several."""
    found = [
        index
        for index, known_categories in enumerate(categories)
        if any(category == known or category.startswith(f"{known}/") for known in known_categories)
    ]
    return found[0] if len(found) == 1 else -1


def _require_columns(path: Path, source: ParquetSource) -> None:
    known = _opened(path).schema_arrow.names
    missing = [column for column in _columns(source) if column not in known]
    if missing:
        raise PipelineError(f"{path} has no column {', '.join(missing)}; it has {', '.join(known)}")


def _columns(source: ParquetSource) -> list[str]:
    named = (
        source.image_column, source.label_column, source.category_column, source.caption_column, source.tags_column,
        source.split_column,
    )  # fmt: skip
    return list(dict.fromkeys(column for column in named if column))


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, **READ)
    except DAMAGE as error:
        raise damaged(path, error, _REMEDY) from error


def _entries(path: Path, source: ParquetSource, own_split: str) -> Iterator[Entry]:
    categories = list((source.categories or {}).values())
    for row in _rows(path, _columns(source)):
        if source.split_column and row[source.split_column] != own_split:
            continue
        label = -1
        if source.label_column:
            label = _label(path, row[source.label_column])
        elif source.category_column:
            label = class_index(categories, str(row[source.category_column]))
        captions = _captions(path, row, source)
        yield Entry(content=_image(path, row[source.image_column]), label=label, captions=captions)


def _rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    batches = _opened(path).iter_batches(_BATCH_ROWS, columns=columns)
    yield from reading(path, (row for batch in batches for row in batch.to_pylist()), _REMEDY)


def _label(path: Path, value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise PipelineError(f"{path} has the label {value!r}; wanted are whole numbers from 0 on")
    return value


def _image(path: Path, value: Any) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value  # Hugging Face: a struct of bytes and path
    if not isinstance(content, bytes):
        raise PipelineError(f"{path} has a {type(content).__name__} where a picture's encoded bytes are wanted")
    return content


def _captions(path: Path, row: dict[str, Any], source: ParquetSource) -> list[str]:
    if not source.caption_column:
        return []
    value = row[source.caption_column]
    texts = value if isinstance(value, list) else [value or ""]
    if not all(isinstance(text, str) for text in texts):
        raise PipelineError(f"{path} has the caption {value!r}; wanted is text, or a list of texts")
    if isinstance(value, list):
        return [text for text in value if text]
    tags = [tag for tag in row[source.tags_column] or [] if tag is not None] if source.tags_column else []
    text = caption_of(value, tags)
    return [text] if text else []


def _distinct(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Equal pictures count once: under the first caption, and in a class only if they agree on it.

    A caption that several pictures share describes none of them and is left out.
    """
    same: dict[bytes, list[Entry]] = {}
    for entry in entries:
        same.setdefault(entry.content or b"", []).append(entry)
    classes = [{entry.label for entry in group} - {-1} for group in same.values()]
    texts = [next((entry.captions for entry in group if entry.captions), []) for group in same.values()]
    uses = Counter(text for captions in texts for text in set(captions))
    for content, found, captions in zip(same, classes, texts, strict=True):
        label = next(iter(found)) if len(found) == 1 else -1
        yield Entry(
            content=content, label=label, captions=[text for text in dict.fromkeys(captions) if uses[text] == 1]
        )


def _class_names(test: Path, source: ParquetSource, root: Path) -> list[str]:
    if source.categories:
        return list(source.categories)
    if source.class_names:
        return _names_of(placed(source.class_names.path, root), source.class_names)
    if source.class_name_column and source.label_column:
        return _names_of(test, ClassNameFile("-", source.label_column, source.class_name_column))
    return []


def _names_of(path: Path, columns: ClassNameFile) -> list[str]:
    """The names in the order of their labels. Raises PipelineError unless each of 0 to C - 1 has one."""
    wanted = [columns.label_column, columns.name_column]
    known = _opened(path).schema_arrow.names
    if missing := [column for column in wanted if column not in known]:
        raise PipelineError(f"{path} has no column {', '.join(missing)}; it has {', '.join(known)}")
    names: dict[Any, str] = {}
    for label, name in zip(*(pq.read_table(path, columns=wanted)[c].to_pylist() for c in wanted), strict=True):
        if not isinstance(label, int) or not isinstance(name, str):
            raise PipelineError(f"{path}: the label {label!r} has the name {name!r}; wanted are a number and a text")
        if names.setdefault(label, name) != name:
            raise PipelineError(f"{path}: the label {label} has two names, {names[label]!r} and {name!r}")
    if sorted(names) != list(range(len(names))):
        raise PipelineError(f"{path}: the labels are not 0 to {len(names) - 1}, each with a name")
    return [names[label] for label in range(len(names))]
