"""Evaluation sets as rows: classes by category, equal pictures once, captions that describe one picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_steps.core.config import ConfigError
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import DatasetRow
from pipeline_steps.evaluation.datasets import class_index, class_prompts, dataset_row, read_split

ROW = DatasetRow(
    source="parquet", path="", image_column="image", category_column="category", caption_column="title",
    split_column="split", test_split="test", train_split="train", templates=("a {c}.", "{c}"),
    classes={"bird": ("animals/birds",), "animal": ("animals",), "flag": ("flags", "old/flags")},
)  # fmt: skip


def _png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _row(tmp_path: Path, rows: list[dict[str, Any]]) -> DatasetRow:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return replace(ROW, path=str(path))


def _picture(colour: int, category: str, title: str, split: str = "test") -> dict[str, Any]:
    return {"image": _png(colour), "category": category, "title": title, "split": split, "tags": ["t"]}


@pytest.mark.parametrize(
    ("category", "expected"),
    [("flags", 2), ("flags/europe", 2), ("old/flags", 2), ("animals", 1), ("animals/birds", -1), ("flagship", -1)],
)
def test_a_category_is_of_the_one_class_that_holds_it_or_a_folder_above(category: str, expected: int) -> None:
    assert class_index(ROW, category) == expected


def test_equal_pictures_count_once_and_shared_captions_describe_none(tmp_path: Path) -> None:
    row = _row(
        tmp_path,
        [
            _picture(1, "flags", "one"),
            _picture(2, "flags", "both"),
            _picture(3, "animals", "both"),
            _picture(1, "animals", "again"),
            _picture(4, "elsewhere", ""),
            _picture(5, "flags", "seen", split="train"),
        ],
    )
    test = read_split(row, "test")
    assert len(test.images) == 4
    assert test.labels == (-1, 2, 1, -1)
    assert test.captions == ("one, t", "", "", "t")
    assert test.image(1).getpixel((0, 0)) == (2, 0, 0)
    assert read_split(row, "train").captions == ("seen, t",)
    assert test.label_hash() != read_split(row, "train").label_hash()


def test_prompts_are_the_templates_filled() -> None:
    assert class_prompts(ROW) == [["a bird.", "bird"], ["a animal.", "animal"], ["a flag.", "flag"]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    row = _row(tmp_path, [_picture(1, "flags", "one")])
    with pytest.raises(PipelineError, match="has no row with split = 'dev'"):
        read_split(row, "dev")
    with pytest.raises(PipelineError, match="has no column label; it has image, category, title, split, tags"):
        read_split(replace(row, category_column="label"), "test")
    with pytest.raises(PipelineError, match="absent.parquet does not exist"):
        read_split(replace(row, path="absent.parquet"), "test")
    table = tmp_path / "sets.yaml"
    table.write_text("mine: {source: parquet}\n")
    with pytest.raises(ConfigError, match="'other' is no row of .*sets.yaml; allowed: mine"):
        dataset_row(table, "other")
