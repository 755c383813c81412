from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline_steps.core.config import load_section
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import BuildManifestConfig
from pipeline_steps.data.pair_source import contained, csv_pairs, downloaded_pairs
from tests.unit.data.made_data import section, write_picture, write_shard


def _settings(**changes: object) -> BuildManifestConfig:
    return load_section(section("build_manifest", **changes), "build_manifest", BuildManifestConfig)


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
    first, second = downloaded_pairs(tmp_path / "a"), downloaded_pairs(tmp_path / "b")
    assert first.image_paths == second.image_paths
    assert (
        first.captions
        == second.captions
        == [f"caption {number}" if number != 4 else "" for number in (0, 1, 2, 4, 5, 6, 7)]
    )
    assert first.image_paths[0] == "00000/000000000.webp"


def test_pictures_of_an_older_try_are_no_pairs_and_lost_ones_stay_rows(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", _rows())
    write_picture(tmp_path / "00000" / "000000003.webp", 3)
    (tmp_path / "00000" / "000000005.webp").unlink()
    paths = downloaded_pairs(tmp_path).image_paths
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
    here = csv_pairs(tmp_path / "lists" / "here.csv", _settings())
    there = csv_pairs(tmp_path / "lists" / "there.csv", _settings(image_root=str(tmp_path)))
    assert (here.root, here.image_paths, here.captions) == (tmp_path / "lists", ["a.png"], ["red"])
    assert (there.root, there.image_paths) == (tmp_path, ["lists/a.png"])
    with pytest.raises(PipelineError, match="image_root = '.*nowhere' is not a folder"):
        csv_pairs(tmp_path / "lists" / "here.csv", _settings(image_root=str(tmp_path / "nowhere")))


def test_a_csv_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,text\na.png,red\n")
    with pytest.raises(PipelineError, match=r"'image_path' \(build_manifest.image_column\).*'file', 'text'"):
        csv_pairs(tmp_path / "a.csv", _settings())
    renamed = _settings(image_column="file", caption_column="text")
    assert csv_pairs(tmp_path / "a.csv", renamed).captions == ["red"]


def test_paths_below_the_root_become_relative_and_plain(tmp_path: Path) -> None:
    write_picture(tmp_path / "a" / "1.png", 1)
    (tmp_path / "a" / "link.png").symlink_to("1.png")
    paths = ["a/1.png", "./a/../a/1.png", str(tmp_path / "a" / "1.png"), "a/link.png", "a/not there.png"]
    assert contained(tmp_path, paths) == ["a/1.png"] * 4 + ["a/not there.png"]


def test_every_way_out_of_the_root_is_refused_and_its_row_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    outside = write_picture(tmp_path / "outside.png", 1)
    write_picture(root / "a.png", 1)
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    bad = [
        "../outside.png",
        str(outside),
        "link.png",
        "folder/outside.png",
        "",
        ".",
        "a\0.png",
        "/etc/passwd",
        "../root2/a",
    ]
    for path in bad:
        with pytest.raises(PipelineError, match=r"1 of 2 rows .* row 2: "):
            contained(root, ["a.png", path])
    with pytest.raises(PipelineError, match=r"12 of 12 rows .*row 10: '/x9' and 2 more"):
        contained(root, [f"/x{number}" for number in range(12)])
