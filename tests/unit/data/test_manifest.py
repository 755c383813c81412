from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.manifest import (
    SCHEMA,
    TRAINING_COLUMNS,
    TRUTH_COLUMNS,
    image_root,
    read_manifest,
    write_manifest,
    write_pairs_csv,
)
from tests.unit.data.made_data import write_picture

ROWS = [
    {
        "id": f"{number:016x}", "image_path": f"a/{number}.png", "sha256": f"{number:064x}", "width": 4, "height": 5,
        "caption": f'noisy "{number}", yes', "split": "validation" if number == 2 else "train", "is_noisy": True,
        "clean_caption": f"clean {number}",
    }
    for number in range(4)
]  # fmt: skip


def _table(rows: list[dict[str, object]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_manifest_comes_back_as_written_with_its_root(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "pairs.parquet"
    write_manifest(path, _table(), Path("results/demo/images"))
    assert read_manifest(path, SCHEMA.names).to_pylist() == ROWS
    assert image_root(path) == Path("results/demo/images")


def test_what_training_reads_holds_nothing_of_the_truth(tmp_path: Path) -> None:
    write_manifest(tmp_path / "pairs.parquet", _table(), tmp_path)
    table = read_manifest(tmp_path / "pairs.parquet", TRAINING_COLUMNS)
    assert table.column_names == list(TRAINING_COLUMNS)
    assert not set(TRUTH_COLUMNS) & set(TRAINING_COLUMNS)
    assert "clean" not in str(table.to_pylist())


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "caption": ["b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(PipelineError, match=r"no column 'image_path', 'split'; it has 'id', 'caption'"):
        read_manifest(tmp_path / "pairs.parquet", TRAINING_COLUMNS)
    with pytest.raises(PipelineError, match="where its pictures are"):
        image_root(tmp_path / "pairs.parquet")


def test_an_empty_manifest_another_file_and_none_are_errors(tmp_path: Path) -> None:
    write_manifest(tmp_path / "empty.parquet", _table([]), tmp_path)
    (tmp_path / "text.parquet").write_text("no parquet")
    for name, fact in (("empty", "has no row"), ("text", "cannot be read"), ("none", "cannot be read")):
        with pytest.raises(PipelineError, match=fact):
            read_manifest(tmp_path / f"{name}.parquet", TRAINING_COLUMNS)


def test_the_csv_has_the_training_split_with_paths_that_hold_from_its_own_folder(tmp_path: Path) -> None:
    root, path = tmp_path / "download" / "images", tmp_path / "manifest" / "pairs.csv"
    for number in range(4):
        write_picture(root / f"a/{number}.png", number)
    write_pairs_csv(path, _table(), root)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text_content"] for row in rows] == [f'noisy "{number}", yes' for number in (0, 1, 3)]
    assert list(rows[0]) == ["image_path", "text_content"]
    assert all((path.parent / row["image_path"]).is_file() for row in rows)
