from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.shards import picture_sizes, remove_shards, shard_tables
from tests.unit.data.made_data import write_shard

ROW = {"caption": "c", "status": "success"}


def test_finished_shards_come_in_order_and_unfinished_ones_not(tmp_path: Path) -> None:
    for shard, key in (("00001", "000010000"), ("00000", "000000000"), ("00002", "000020000")):
        write_shard(tmp_path, shard, [ROW | {"key": key, "number": 1}])
    (tmp_path / "00002_stats.json").unlink()
    (tmp_path / "urls.parquet").write_bytes(b"not a shard")
    found = [(name, table["key"].to_pylist()) for name, table in shard_tables(tmp_path, ["key"])]
    assert found == [("00000", ["000000000"]), ("00001", ["000010000"])]


def test_pictures_are_listed_with_their_sizes(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", [ROW | {"key": "000000000", "number": 1}], suffix=".png")
    picture = tmp_path / "00000" / "000000000.png"
    assert picture_sizes(tmp_path / "00000") == {"000000000": ("000000000.png", picture.stat().st_size)}
    assert picture_sizes(tmp_path / "00009") == {}


def test_shards_are_removed_whole_from_a_number_on(tmp_path: Path) -> None:
    for shard in ("00000", "00009", "00010", "100000"):
        write_shard(tmp_path, shard, [ROW | {"key": f"{shard}0000", "number": 1}])
    (tmp_path / "00011.tar").touch()
    remove_shards(tmp_path, 10)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{shard}{end}" for shard in ("00000", "00009") for end in ("", ".parquet", "_stats.json")]


def test_a_shard_without_captions_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", [ROW | {"key": "000000000", "number": 1}])
    with pytest.raises(PipelineError, match="no column sha512"):
        list(shard_tables(tmp_path, ["key", "sha512"]))
