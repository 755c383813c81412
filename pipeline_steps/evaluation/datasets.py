"""Evaluation sets: rows of config/datasets.yaml, read as pictures with class labels and captions."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline_steps.core.config import ConfigError, load_section, read_yaml
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.data.embedded import caption_of
from pipeline_steps.data.pictures import to_rgb


@dataclass(frozen=True)
class EvaluationSplit:
    """One split: encoded pictures, class index per picture (-1: no class), one caption per picture ("": none)."""

    images: tuple[bytes, ...]
    labels: tuple[int, ...]
    captions: tuple[str, ...]

    def image(self, row: int) -> Image.Image:
        """Picture `row` as RGB."""
        with Image.open(io.BytesIO(self.images[row])) as opened:
            opened.load()
            return to_rgb(opened)

    def label_hash(self) -> str:
        """First 12 hex digits of the sha256 over the labels in order: two results with it equal used equal labels."""
        return hashlib.sha256(",".join(map(str, self.labels)).encode()).hexdigest()[:12]


def dataset_row(table: Path, name: str) -> DatasetRow:
    """The checked row of a set. Raises ConfigError for an unknown name, listing the known ones."""
    rows = read_yaml([table])
    if name not in rows:
        raise ConfigError([f"extract_features.datasets: {name!r} is no row of {table}; allowed: {', '.join(rows)}"])
    return load_section(rows, name, DatasetRow)


def read_split(row: DatasetRow, split: str) -> EvaluationSplit:
    """The pictures of one split, in the file's order. Raises PipelineError for missing columns and an empty split."""
    path = Path(row.path)
    if not path.is_file():
        raise PipelineError(f"{path} does not exist; it is the `path` of an evaluation set in config/datasets.yaml")
    known = pq.read_schema(path).names
    wanted = [row.image_column, row.category_column, row.caption_column, row.split_column]
    missing = [column for column in wanted if column not in known]
    if missing:
        raise PipelineError(f"{path} has no column {', '.join(missing)}; it has {', '.join(known)}")
    tags = ["tags"] if "tags" in known else []
    table = pq.read_table(path, columns=[*dict.fromkeys(wanted), *tags])
    table = table.filter(pc.equal(table[row.split_column], split))
    if table.num_rows == 0:
        raise PipelineError(f"{path} has no row with {row.split_column} = {split!r}")
    labels = [class_index(row, category) for category in table[row.category_column].to_pylist()]
    return _distinct(table[row.image_column].to_pylist(), labels, _captions(table, row))


def class_index(row: DatasetRow, category: str) -> int:
    """The one class whose categories hold `category` itself or a folder above it; -1 for none or several."""
    found = [
        index
        for index, categories in enumerate(row.classes.values())
        if any(category == known or category.startswith(f"{known}/") for known in categories)
    ]
    return found[0] if len(found) == 1 else -1


def class_prompts(row: DatasetRow) -> list[list[str]]:
    """For each class the templates filled with its name."""
    return [[template.replace("{c}", name) for template in row.templates] for name in row.classes]


def _distinct(images: list[bytes], labels: list[int], captions: list[str]) -> EvaluationSplit:
    """Equal pictures count once: under the first caption that is not empty, and in a class only if they agree on it.

    A caption that several pictures share describes none of them and is left out of retrieval.
    """
    rows: dict[bytes, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image, []).append(row)
    classes = [{labels[row] for row in same} - {-1} for same in rows.values()]
    texts = [next(filter(None, (captions[row] for row in same)), "") for same in rows.values()]
    uses = Counter(texts)
    return EvaluationSplit(
        images=tuple(rows),
        labels=tuple(next(iter(found)) if len(found) == 1 else -1 for found in classes),
        captions=tuple(text if uses[text] == 1 else "" for text in texts),
    )


def _captions(table: pa.Table, row: DatasetRow) -> list[str]:
    titles = table[row.caption_column].to_pylist()
    tags = table["tags"].to_pylist() if "tags" in table.column_names else [[] for _ in titles]
    return [caption_of(title, tag_list) for title, tag_list in zip(titles, tags, strict=True)]
