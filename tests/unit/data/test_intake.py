from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_steps.data import intake
from pipeline_steps.data.database import working_database
from pipeline_steps.data.image_check import Picture, check_picture
from pipeline_steps.data.intake import create_tables, row_columns, take_in
from pipeline_steps.data.pair_source import FILE_COLUMNS, FilePairs, ShardPairs
from tests.unit.data.made_data import picture_bytes, sample, write_picture, write_tar
from tests.unit.data.made_tables import manifest_settings


def _tables(source: FilePairs | ShardPairs, processes: int = 1) -> dict[str, list[dict[str, Any]]]:
    with working_database(source.root / "made", threads=1) as it:
        create_tables(it)
        take_in(it, source, manifest_settings(max_caption_characters=10), processes)
        return {
            name: it.sql(f"SELECT * FROM {name} ORDER BY ALL").to_arrow_table().to_pylist()
            for name in ("rows", "pictures", "broken")
        }


def _files(root: Path, rows: list[tuple[str, str]], size: int = 3) -> FilePairs:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    columns = [tuple(zip(*part, strict=True)) for part in parts]
    return FilePairs(
        root, [pa.RecordBatch.from_arrays([pa.array(one) for one in pair], FILE_COLUMNS) for pair in columns]
    )


def test_rows_carry_what_follows_from_their_captions() -> None:
    assert row_columns(5, ["short", "one two three", " \n", ""], 9) == {
        "row": range(5, 9),
        "caption": ["short", "one two three", " \n", ""],
        "fitted": [None, "one two", None, None],
        "is_empty": [False, False, True, True],
    }


@pytest.mark.parametrize("at_once", [2, 20_000])
def test_rows_are_numbered_over_all_parts_and_a_picture_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(intake, "_AT_ONCE", at_once)
    for number in range(5):
        write_picture(tmp_path / f"{number}.png", number)
    rows = [(f"{number % 6}.png", f"caption {number} is long") for number in range(11)]
    tables = _tables(_files(tmp_path, rows))
    assert [(row["row"], row["image_path"], row["caption"]) for row in tables["rows"]] == [
        (number, *row) for number, row in enumerate(rows)
    ]
    assert all(row["fitted"] == row["caption"][:10].rstrip() for row in tables["rows"])
    assert [row["image_path"] for row in tables["pictures"]] == [f"{number}.png" for number in range(6)]
    for row in tables["pictures"][:5]:
        assert Picture(row["sha256"], row["width"], row["height"], row["phash"]) == check_picture(
            tmp_path / row["image_path"], 10**6
        )
        assert row["cause"] is row["message"] is row["image_offset"] is None
    assert (tables["pictures"][5]["cause"], tables["pictures"][5]["sha256"]) == ("missing", None)
    assert tables["broken"] == []


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_give_rows_in_the_order_of_shards_and_keys(tmp_path: Path, processes: int) -> None:
    shards = ("a.tar", "b.tar", "c.tar")
    for place, shard in enumerate(shards):
        members = [member for number in (2, 1, 0) for member in sample(10 * place + number)]
        write_tar(tmp_path / shard, [*members, ("alone.txt", b"x"), ("\udcff.txt", b"x")])
    tables = _tables(ShardPairs(tmp_path, shards, "caption"), processes)
    assert [(row["row"], row["image_path"], row["caption"]) for row in tables["rows"]] == [
        (number, shards[number // 3], f"caption {10 * (number // 3) + number % 3}") for number in range(9)
    ]
    places = [(row["image_path"], row["image_offset"]) for row in tables["rows"]]
    assert {(row["image_path"], row["image_offset"]) for row in tables["pictures"]} == set(places)
    for row in tables["rows"]:
        content = (tmp_path / row["image_path"]).read_bytes()[row["image_offset"] :][: row["image_bytes"]]
        assert content == picture_bytes(int(row["caption"].split()[1]))
    assert [(row["shard"], row["key"]) for row in tables["broken"]] == [
        (shard, key) for shard in shards for key in ("\\udcff", "alone")
    ]


def test_paths_come_from_the_database_while_processes_check_and_answers_go_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_AT_ONCE", 300)
    write_picture(tmp_path / "0.png", 0)
    for number in range(1, 1500):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    tables = _tables(_files(tmp_path, [(f"{number}.png", "x") for number in range(1500)], size=700), processes=2)
    assert sorted(row["image_path"] for row in tables["pictures"]) == sorted(f"{number}.png" for number in range(1500))
    assert {row["sha256"] for row in tables["pictures"]} == {tables["pictures"][0]["sha256"]}
