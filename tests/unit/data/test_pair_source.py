from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.pair_source import ShardPairs, csv_pairs, downloaded_pairs, shard_pairs
from tests.unit.data.made_data import read_files, write_picture, write_shard
from tests.unit.data.made_tables import manifest_settings


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"key": f"{number:09d}", "caption": f"caption {number}", "status": "success", "number": number}
        for number in range(8)
    ]
    rows[3] |= {"status": "failed_to_download", "error_message": "timed out"}
    rows[4] |= {"caption": None}
    return rows


def test_the_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    rows = _rows()
    write_shard(tmp_path / "a", "00000", rows)
    random.Random(1).shuffle(rows)
    write_shard(tmp_path / "b", "00000", rows)
    first, second = read_files(downloaded_pairs(tmp_path / "a")), read_files(downloaded_pairs(tmp_path / "b"))
    assert first == second
    assert [caption for _, caption in first] == [
        f"caption {number}" if number != 4 else "" for number in (0, 1, 2, 4, 5, 6, 7)
    ]
    assert first[0][0] == "00000/000000000.webp"


def test_pictures_of_an_older_try_are_no_pairs_and_lost_ones_stay_rows(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", _rows())
    write_picture(tmp_path / "00000" / "000000003.webp", 3)
    (tmp_path / "00000" / "000000005.webp").unlink()
    paths = [path for path, _ in read_files(downloaded_pairs(tmp_path))]
    assert "00000/000000003.webp" not in paths
    assert "00000/000000005.webp" in paths


def test_another_kind_of_folder_is_an_error(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    with pytest.raises(PipelineError, match="no finished shard"):
        downloaded_pairs(tmp_path)


def test_an_own_csv_starts_from_its_folder_or_from_the_root_given(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name, image in (("here", "a.png"), ("there", "lists/a.png")):
        (tmp_path / "lists" / f"{name}.csv").write_text(f"image_path,text_content\n{image},red\n")
    here = csv_pairs(tmp_path / "lists" / "here.csv", manifest_settings())
    there = csv_pairs(tmp_path / "lists" / "there.csv", manifest_settings(image_root=str(tmp_path)))
    assert (here.root, read_files(here)) == (tmp_path / "lists", [("a.png", "red")])
    assert (there.root, read_files(there)) == (tmp_path, [("lists/a.png", "red")])
    with pytest.raises(PipelineError, match="image_root = '.*nowhere' is not a folder"):
        csv_pairs(tmp_path / "lists" / "here.csv", manifest_settings(image_root=str(tmp_path / "nowhere")))


def test_a_csv_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,text\na.png,red\n")
    with pytest.raises(PipelineError, match=r"'image_path' \(build_manifest.image_column\).*'file', 'text'"):
        read_files(csv_pairs(tmp_path / "a.csv", manifest_settings()))
    renamed = manifest_settings(image_column="file", caption_column="text")
    assert read_files(csv_pairs(tmp_path / "a.csv", renamed)) == [("a.png", "red")]


def test_a_path_out_of_the_root_is_refused_when_all_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image_path,text_content\na.png,red\n../a.png,blue\nb.png,green\n")
    with pytest.raises(PipelineError, match=r"1 of 3 rows .* row 2: '../a.png'"):
        read_files(csv_pairs(tmp_path / "a.csv", manifest_settings()))


def test_shards_of_a_folder_come_by_name_and_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "a.json", "c.tar.gz"):
        (tmp_path / name).touch()
    source = shard_pairs(tmp_path, manifest_settings(caption_column="caption"))
    assert source == ShardPairs(tmp_path, ("a.tar", "b.tar"), "caption")


def test_a_folder_without_shards_and_a_shard_elsewhere_are_errors(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path / "folder", tmp_path / "nowhere"):
        with pytest.raises(PipelineError, match="no folder with webdataset shards"):
            shard_pairs(folder, manifest_settings())
    (tmp_path / "elsewhere.tar").touch()
    (tmp_path / "folder" / "a.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(PipelineError, match=r"1 of 1 shards .*are links to files elsewhere.*the first: 'a.tar'"):
        shard_pairs(tmp_path / "folder", manifest_settings())


def test_a_download_of_tar_shards_gives_the_finished_ones(tmp_path: Path) -> None:
    for shard in ("00001", "00000", "00002"):
        write_shard(tmp_path, shard, [])
        (tmp_path / f"{shard}.tar").touch()
    (tmp_path / "00001_stats.json").unlink()
    assert downloaded_pairs(tmp_path) == ShardPairs(tmp_path, ("00000.tar", "00002.tar"), "caption")
