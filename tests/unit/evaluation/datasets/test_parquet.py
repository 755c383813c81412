"""Parquet sets: labels, categories, captions, class names from a column or another file, equal pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import ClassNameFile, ParquetSource
from pipeline_steps.evaluation.datasets.parquet import class_index, read_parquet
from pipeline_steps.evaluation.datasets.source import AbsentError
from tests.unit.data.made_data import picture_bytes
from tests.unit.evaluation.datasets import made_sets

CATEGORIES = {"bird": ("animals/birds",), "animal": ("animals",), "flag": ("flags", "old/flags")}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def _source(**changes: Any) -> dict[str, Any]:
    values = {"kind": "parquet", "path": "{root}/{split}.parquet", "splits": {"test": "val"}, "label_column": "label"}
    return {**values, **changes}


@pytest.mark.parametrize(
    ("category", "expected"),
    [("flags", 2), ("flags/europe", 2), ("old/flags", 2), ("animals", 1), ("animals/birds", -1), ("flagship", -1)],
)
def test_a_category_is_of_the_one_class_that_holds_it_or_a_folder_above(category: str, expected: int) -> None:
    assert class_index(list(CATEGORIES.values()), category) == expected


def test_equal_pictures_count_once_and_shared_captions_describe_none(tmp_path: Path) -> None:
    rows = [
        (1, "flags", "one", "test"),
        (2, "flags", "both", "test"),
        (3, "animals", "both", "test"),
        (1, "animals", "again", "test"),
        (4, "elsewhere", "", "test"),
        (5, "flags", "seen", "train"),
    ]
    _write(
        tmp_path / "set.parquet",
        [
            {"image": picture_bytes(n), "category": category, "title": title, "split": split, "tags": ["t"]}
            for n, category, title, split in rows
        ],
    )
    source = _source(
        path="{root}/set.parquet", splits={"test": "test", "train": "train"}, label_column=None,
        category_column="category", categories={name: list(kinds) for name, kinds in CATEGORIES.items()},
        caption_column="title", tags_column="tags", split_column="split", distinct=True,
    )  # fmt: skip
    row = made_sets.row(
        tasks=["classification", "retrieval"], n={"test": 4, "train": 1}, classes=3, sources=[source],
        templates=["a {c}.", "{c}"],
    )  # fmt: skip
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    test = made.splits["test"]
    assert test.labels.tolist() == [-1, 2, 1, -1]
    assert test.captions == [["one, t"], [], [], ["t"]]
    assert made.splits["train"].captions == [["seen, t"]]
    assert test.label_hash != made.splits["train"].label_hash
    assert made.prompts() == [["a bird.", "bird"], ["a animal.", "animal"], ["a flag.", "flag"]]


def test_a_caption_that_one_picture_has_twice_is_its_own(tmp_path: Path) -> None:
    rows = [
        {"image": picture_bytes(1), "label": 0, "texts": ["a dog", "a dog", "both"]},
        {"image": picture_bytes(2), "label": 0, "texts": ["a cat", "both"]},
    ]
    _write(tmp_path / "val.parquet", rows)
    source = ParquetSource(**_source(caption_column="texts", distinct=True))
    entries = list(read_parquet(source, tmp_path).splits["test"].entries)
    assert [list(entry.captions) for entry in entries] == [["a dog"], ["a cat"]]


def test_labels_names_and_captions_come_from_the_columns_named(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": picture_bytes(n), "path": None}, "label": n % 2, "name": "odd" if n % 2 else "even",
         "texts": [f"a {n}", f"the {n}"][: n + 1]}
        for n in range(2)
    ]  # fmt: skip
    _write(tmp_path / "val.parquet", rows)
    _write(tmp_path / "names.parquet", [{"id": 1, "word": "one"}, {"id": 0, "word": "zero"}])
    source = _source(class_name_column="name", caption_column="texts")
    made = made_sets.prepared(tmp_path / "a", made_sets.row(sources=[source]), tmp_path)
    assert made.classes == ("even", "odd")
    assert made.splits["test"].labels.tolist() == [0, 1]
    assert made.splits["test"].captions == [["a 0"], ["a 1", "the 1"]]
    assert made.splits["test"].split == "val"
    assert made.source == f"parquet: {tmp_path}/{{split}}.parquet"
    other = _source(class_names={"path": "{root}/names.parquet", "label_column": "id", "name_column": "word"})
    assert made_sets.prepared(tmp_path / "b", made_sets.row(sources=[other]), tmp_path).classes == ("zero", "one")


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        ([{"image": b"x", "label": -1}], None, r"has the label -1; wanted are whole numbers"),
        ([{"image": b"x", "label": 0.5}], None, r"has the label 0.5; wanted"),
        ([{"image": "x", "label": 0}], None, r"has a str where a picture's encoded bytes are wanted"),
        ([{"picture": b"x", "label": 0}], None, r"has no column image; it has picture, label"),
        ([{"image": b"x", "label": 0}], [(0, "a"), (2, "b")], r"the labels are not 0 to 1"),
        ([{"image": b"x", "label": 0}], [(0, "a"), (0, "b")], r"the label 0 has two names, 'a' and 'b'"),
        ([{"image": b"x", "label": 0}], [(0, "a"), (None, "b")], r"the label None has the name 'b'; wanted"),
        ([{"image": b"x", "label": 0}], [(0, "a"), (1, None)], r"the label 1 has the name None; wanted"),
    ],
)
def test_a_file_of_another_form_is_refused(
    rows: list[dict[str, Any]], names: list[tuple[int | None, str | None]] | None, words: str, tmp_path: Path
) -> None:
    _write(tmp_path / "val.parquet", rows)
    described = None
    if names:
        _write(tmp_path / "names.parquet", [{"id": label, "word": name} for label, name in names])
        described = ClassNameFile(path="{root}/names.parquet", label_column="id", name_column="word")
    source = ParquetSource(**_source(class_names=described))
    with pytest.raises(PipelineError, match=words):
        list(read_parquet(source, tmp_path).splits["test"].entries)


def test_a_caption_that_is_no_text_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    _write(path, [{"image": b"x", "label": 0, "text": 7}])
    source = ParquetSource(**_source(caption_column="text"))
    with pytest.raises(PipelineError, match="has the caption 7; wanted is text"):
        list(read_parquet(source, tmp_path).splits["test"].entries)
    pq.write_table(pa.table({"image": [bytes(900)] * 50, "label": [0] * 50, "text": ["x"] * 50}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(60) + content[64:])
    with pytest.raises(PipelineError, match="val.parquet cannot be read"):
        list(read_parquet(source, tmp_path).splits["test"].entries)


def test_a_file_that_is_not_there_is_absent_and_one_that_is_no_parquet_is_not(tmp_path: Path) -> None:
    source = ParquetSource(**_source())
    with pytest.raises(AbsentError, match=r"val.parquet does not exist"):
        read_parquet(source, tmp_path)
    (tmp_path / "val.parquet").write_text("no parquet")
    with pytest.raises(PipelineError, match="cannot be read") as caught:
        read_parquet(source, tmp_path)
    assert not isinstance(caught.value, AbsentError)
