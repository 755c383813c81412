from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data import manifest
from pipeline_steps.data.manifest import (
    SCHEMA,
    TRAINING_COLUMNS,
    TRUTH_COLUMNS,
    image_root,
    training_rows,
    validation_rows,
    write_manifest,
    write_pairs_csv,
)
from tests.unit.data.made_data import write_picture

ROWS = [
    {
        "id": f"{number:016x}", "image_path": f"a/{number}.png", "image_offset": None, "image_bytes": None,
        "sha256": f"{number:064x}", "width": 4, "height": 5, "phash": -number, "caption": f'noisy "{number}", yes',
        "split": "validation" if number == 2 else "train", "is_noisy": True, "clean_caption": f"clean {number}",
    }
    for number in range(4)
]  # fmt: skip


def _table(rows: list[dict[str, object]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_manifest_comes_back_as_written_with_its_root(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "pairs.parquet"
    write_manifest(path, _table(), Path("results/demo/images"))
    assert pq.read_table(path).to_pylist() == ROWS
    assert image_root(path) == Path("results/demo/images")


def test_what_training_reads_holds_nothing_of_the_truth(tmp_path: Path) -> None:
    write_manifest(tmp_path / "pairs.parquet", _table(), tmp_path)
    table = training_rows(tmp_path / "pairs.parquet", None, TRAINING_COLUMNS)
    assert table.column_names == list(TRAINING_COLUMNS)
    assert not set(TRUTH_COLUMNS) & set(TRAINING_COLUMNS)
    assert "clean" not in str(table.to_pylist())


def test_missing_columns_are_named_with_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "caption": ["b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(
        PipelineError, match=r"no column 'image_path', 'image_offset', 'image_bytes', 'split'; it has 'id', 'caption'"
    ):
        training_rows(tmp_path / "pairs.parquet", None, TRAINING_COLUMNS)
    with pytest.raises(PipelineError, match="where its pictures are"):
        image_root(tmp_path / "pairs.parquet")


def test_an_empty_manifest_another_file_and_none_are_errors(tmp_path: Path) -> None:
    write_manifest(tmp_path / "empty.parquet", _table([]), tmp_path)
    (tmp_path / "text.parquet").write_text("no parquet")
    for name, fact in (("empty", "no row of the split"), ("text", "cannot be read"), ("none", "cannot be read")):
        with pytest.raises(PipelineError, match=fact):
            training_rows(tmp_path / f"{name}.parquet", None, TRAINING_COLUMNS)


def test_the_csv_has_the_training_split_with_paths_that_hold_from_its_own_folder(tmp_path: Path) -> None:
    root, path = tmp_path / "download" / "images", tmp_path / "manifest" / "pairs.csv"
    for number in range(4):
        write_picture(root / f"a/{number}.png", number)
    write_manifest(tmp_path / "pairs.parquet", _table(), root)
    write_pairs_csv(path, tmp_path / "pairs.parquet", root)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text_content"] for row in rows] == [f'noisy "{number}", yes' for number in (0, 1, 3)]
    assert list(rows[0]) == ["image_path", "text_content"]
    assert all((path.parent / row["image_path"]).is_file() for row in rows)


def test_every_caption_comes_back_from_the_csv_whatever_line_ends_it_holds(tmp_path: Path) -> None:
    captions = ["a\rb", "a\r\nb", "a\nb", 'a "b", c', "", " a "]
    rows = [{**ROWS[0], "id": f"{number:016x}", "caption": caption} for number, caption in enumerate(captions)]
    write_manifest(tmp_path / "pairs.parquet", _table(rows), tmp_path)
    write_pairs_csv(tmp_path / "pairs.csv", tmp_path / "pairs.parquet", tmp_path)
    assert pd.read_csv(tmp_path / "pairs.csv", keep_default_na=False)["text_content"].tolist() == captions
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["text_content"] for row in csv.DictReader(stream)] == captions


def _many(count: int, *, shard: bool = False) -> list[dict[str, object]]:
    place = {"image_path": "a.tar", "image_offset": 512, "image_bytes": 10}
    return [
        {**ROWS[0], "id": f"{number:016x}", "caption": f"c {number}", "is_noisy": number % 3 == 0,
         "split": "validation" if number % 7 == 6 else "train", **(place if shard else {})}
        for number in range(count)
    ]  # fmt: skip


def _training_ids(path: Path, pairs: int | None) -> list[str]:
    return training_rows(path, pairs, ["id"])["id"].to_pylist()


def test_rows_go_into_groups_of_one_size_whatever_parts_they_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 8)
    table = _table(_many(29))
    for number, sizes in enumerate(([29], [1] * 29, [5, 20, 4])):
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        batches = [table.slice(start, size).to_batches()[0] for start, size in zip(starts, sizes, strict=True)]
        write_manifest(tmp_path / f"{number}.parquet", iter(batches), tmp_path)
    contents = {(tmp_path / f"{number}.parquet").read_bytes() for number in range(3)}
    assert len(contents) == 1
    metadata = pq.read_metadata(tmp_path / "0.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [8, 8, 8, 5]
    assert pq.read_table(tmp_path / "0.parquet").equals(table)


@pytest.mark.parametrize("shard", [False, True])
def test_training_reads_its_split_alone_and_of_it_the_first_pairs(
    tmp_path: Path, shard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 8)
    rows = _many(40, shard=shard)
    write_manifest(tmp_path / "pairs.parquet", _table(rows), tmp_path)
    wanted = [*TRAINING_COLUMNS, "is_noisy"]
    training = [{name: row[name] for name in wanted} for row in rows if row["split"] == "train"]
    held_out = [{name: row[name] for name in wanted} for row in rows if row["split"] == "validation"]
    for pairs in (None, 1, 7, 8, 20, len(training)):
        found = training_rows(tmp_path / "pairs.parquet", pairs, wanted)
        assert found.to_pylist() == training[:pairs]
        assert found["caption"].combine_chunks().to_pylist() == [row["caption"] for row in training[:pairs]]
        assert pa.types.is_dictionary(found["image_path"].type) == shard
        assert found["image_path"].combine_chunks()[0].as_py() == training[0]["image_path"]
    assert validation_rows(tmp_path / "pairs.parquet", wanted).to_pylist() == held_out
    with pytest.raises(PipelineError, match=rf"training.pairs = 36 .* the {len(training)} training pairs .*at most"):
        training_rows(tmp_path / "pairs.parquet", len(training) + 1, wanted)


@given(count=st.integers(1, 60), data=st.data())
def test_a_smaller_part_of_the_training_split_is_the_start_of_a_larger_one(count: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.parquet"
        write_manifest(path, _table(_many(count)), Path(folder))
        everything = _training_ids(path, None)
        smaller = data.draw(st.integers(1, len(everything)))
        larger = data.draw(st.integers(smaller, len(everything)))
        assert _training_ids(path, smaller) == _training_ids(path, larger)[:smaller] == everything[:smaller]


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    for split, read in (
        ("validation", training_rows),
        ("train", lambda path, _, columns: validation_rows(path, columns)),
    ):
        write_manifest(tmp_path / "pairs.parquet", _table([{**row, "split": split} for row in ROWS]), tmp_path)
        with pytest.raises(PipelineError, match=r"no row of the split .*validation_fraction"):
            read(tmp_path / "pairs.parquet", None, TRAINING_COLUMNS)
