"""A prepared evaluation set: a folder with dataset.json, a parquet per split, and pictures.tar where it needs one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import read_json
from pipeline_steps.data.parquet_file import DAMAGE, damaged, read_parquet
from pipeline_steps.data.pictures import PictureReader

FACTS, PICTURES = "dataset.json", "pictures.tar"
# image_path starts from the root in the file's metadata, "" for the prepared folder itself. Where image_offset is not
# null the picture is the image_bytes bytes from there on. phash is that of the test split, null elsewhere.
SCHEMA = pa.schema(
    [
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("image_offset", pa.int64()),
        pa.field("image_bytes", pa.int64()),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("phash", pa.int64()),
    ]
)
ROOT_KEY = b"image_root"
_AGAIN = "Run the stage prepare_dataset again."


@dataclass(frozen=True)
class PreparedSplit:
    """One split, as `split` at its source: `n` pictures in a fixed order.

    `label_hash`: first 12 hex digits of the sha256 over the labels in order, joined by commas, and after them, where
    there are captions, each picture's as JSON: two results with it equal used equal answers. `content_hash`: hex sha256
    over the pictures' own, in order. Tables and pictures are read when they are wanted; a split may be sent to another
    process.
    """

    folder: Path
    name: str
    split: str
    n: int
    label_hash: str
    content_hash: str

    @cached_property
    def table(self) -> pa.Table:
        """All columns of SCHEMA, n rows."""
        path = self.folder / f"{self.name}.parquet"
        table = read_parquet(path, {field.name: field.type for field in SCHEMA}, _AGAIN).combine_chunks()
        if len(table) != self.n:
            raise PipelineError(f"{path} has {len(table)} pictures, and {FACTS} says {self.n}. {_AGAIN}")
        return table

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) class indices, -1 where a picture is of no class."""
        return np.asarray(self.table["label"].to_numpy(), dtype=np.int64)

    @property
    def captions(self) -> list[list[str]]:
        """Each picture's captions, which may be none."""
        found: list[list[str]] = self.table["captions"].to_pylist()
        return found

    def picture(self, row: int) -> Image.Image:
        """Picture `row` as RGB. Raises PipelineError naming the file when it is gone or has changed."""
        return self._reader.read(*(column[row].as_py() for column in self._places))

    @cached_property
    def _places(self) -> tuple[pa.ChunkedArray, ...]:
        return tuple(self.table[name] for name in ("image_path", "image_offset", "image_bytes", "sha256"))

    @cached_property
    def _reader(self) -> PictureReader:
        path = self.folder / f"{self.name}.parquet"
        try:
            root = os.fsdecode((pq.read_schema(path).metadata or {}).get(ROOT_KEY, b""))
        except DAMAGE as error:
            raise damaged(path, error, _AGAIN) from error
        return PictureReader(Path(root) if root else self.folder, stage="prepare_dataset")


@dataclass(frozen=True)
class PreparedSet:
    """What dataset.json says. A set with a `hole` could not be had: the line says why, and it has no splits.

    `missing` names splits other than test that the row wants and could not be had, with a line each.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    metric: str
    source: str | None
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    folds: int | None
    evaluator: str
    hole: str | None
    missing: Mapping[str, str]
    splits: Mapping[str, PreparedSplit]

    def prompts(self) -> list[list[str]]:
        """For each class the templates filled with its name."""
        return [[template.replace("{c}", name) for template in self.templates] for name in self.classes]


def read_prepared(folder: Path) -> PreparedSet:
    """The set in a folder of prepare_dataset. Raises PipelineError when it is none."""
    try:
        facts = read_json(folder / FACTS, dict[str, Any], _AGAIN)
        splits = {name: PreparedSplit(folder, name, **values) for name, values in facts.pop("splits").items()}
        lists: dict[str, Any] = {key: tuple(facts.pop(key)) for key in ("tasks", "classes", "templates")}
        return PreparedSet(**facts, **lists, splits=splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{folder} is no prepared evaluation set ({error!r}); make it with the stage prepare_dataset"
        ) from error
