from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_steps.build_manifest import STEP
from pipeline_steps.data.manifest import image_root
from pipeline_steps.data.pictures import PictureReader
from tests.unit.data.made_data import sample, section, write_picture, write_scan, write_shard, write_tar
from tests.unit.step_runs import runs_of


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _build(folder: Path, *inputs: str, threads: int = 1, **changes: Any) -> int:
    outputs = [f"--pairs={folder}/pairs.parquet", f"--pairs-csv={folder}/pairs.csv", f"--report={folder}/report.json"]
    settings = json.dumps(section("build_manifest", **changes))
    shared = ["--settings", settings, "--log-file", f"{folder}/log", "--threads", str(threads)]
    return STEP.main([*inputs, *outputs, *shared])


def _rows(count: int = 40) -> list[dict[str, Any]]:
    return [
        {"key": f"{number:09d}", "caption": f"caption {number}", "status": "success", "number": number}
        for number in range(count)
    ]


def test_a_download_becomes_a_manifest_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    rows, contents = _rows(), []
    for attempt in range(2):
        write_shard(tmp_path / "images", "00000", rows)
        assert _build(tmp_path / str(attempt), f"--images={tmp_path}/images") == 0
        contents.append([(tmp_path / str(attempt) / name).read_bytes() for name in ("pairs.parquet", "pairs.csv")])
        random.Random(3).shuffle(rows)
        shutil.rmtree(tmp_path / "images")
    assert contents[0] == contents[1]
    manifest = pq.read_table(tmp_path / "0" / "pairs.parquet").to_pylist()
    report = json.loads((tmp_path / "0" / "report.json").read_text())
    assert image_root(tmp_path / "0" / "pairs.parquet") == tmp_path / "images"
    assert [row["id"] for row in manifest] == sorted(row["id"] for row in manifest)
    assert report["pairs"] == len(manifest) == 40
    assert report["noise"]["noisy_pairs"] == sum(row["is_noisy"] for row in manifest) > 0
    run = runs_of("build_manifest", "standalone")[-1]
    assert run.metrics["pairs"] == 40
    assert run.metrics["noise.noisy_pairs"] == report["noise"]["noisy_pairs"]


def test_an_own_csv_by_option_or_by_config(tmp_path: Path) -> None:
    lines = ["image_path,text_content"]
    for number in range(10):
        write_picture(tmp_path / "pictures" / f"{number}.jpg", number)
        lines.append(f'pictures/{number}.jpg,"caption {number}, of several words"')
    (tmp_path / "own.csv").write_text("\n".join(lines))
    assert _build(tmp_path / "a", f"--csv={tmp_path}/own.csv", validation_fraction=0.5) == 0
    assert _build(tmp_path / "b", source_csv=str(tmp_path / "own.csv"), validation_fraction=0.5) == 0
    assert (tmp_path / "a" / "pairs.parquet").read_bytes() == (tmp_path / "b" / "pairs.parquet").read_bytes()
    assert image_root(tmp_path / "a" / "pairs.parquet") == tmp_path


def test_bad_pictures_are_counted_and_named_and_fatal_above_the_limit_only(tmp_path: Path) -> None:
    write_shard(tmp_path / "images", "00000", _rows())
    (tmp_path / "images/00000/000000007.webp").write_bytes(b"broken")
    (tmp_path / "images/00000/000000008.webp").unlink()
    assert _build(tmp_path / "kept", f"--images={tmp_path}/images") == 0
    report = json.loads((tmp_path / "kept" / "report.json").read_text())
    assert report["bad_pictures"] == {"missing": 1, "undecodable": 1, "too_large": 0}
    assert report["bad_pictures_named"][0]["image_path"] == "00000/000000007.webp"
    assert _build(tmp_path / "refused", f"--images={tmp_path}/images", max_bad_fraction=0.02) == 1
    assert sorted(path.name for path in (tmp_path / "refused").glob("[!.]*")) == ["log", "refused_report.json"]
    log = (tmp_path / "refused" / "log").read_text()
    assert "2 of 40 pictures cannot be used (missing 1, undecodable 1)" in log


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image_path,text_content\n", "of 0 rows 0 are left to train on"),
        ("image_path,text_content\na.png,\na.png, \n", "dropped empty_caption 2"),
        ("image_path,caption\na.png,red\n", "The columns it has: 'image_path', 'caption'"),
        ("image_path,text_content\n../a.png,red\n", "row 1: '../a.png'"),
    ],
)
def test_a_bad_csv_is_an_error_that_says_why(tmp_path: Path, content: str, words: str) -> None:
    write_picture(tmp_path / "a.png", 1)
    (tmp_path / "own.csv").write_text(content)
    assert _build(tmp_path / "out", f"--csv={tmp_path}/own.csv") == 1
    assert words in (tmp_path / "out" / "log").read_text()
    assert not (tmp_path / "out" / "pairs.parquet").exists()


def _shards(folder: Path, count: int = 40) -> list[tuple[str, bytes]]:
    """Two shards with the pairs of `_rows`."""
    members = [member for number in range(count) for member in sample(number)]
    write_tar(folder / "0.tar", members[:count])
    write_tar(folder / "1.tar", members[count:])
    return members


def test_pairs_in_shards_are_those_of_the_files_with_the_place_of_their_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "images", "00000", _rows())
    _shards(tmp_path / "shards")
    assert _build(tmp_path / "files", f"--images={tmp_path}/images") == 0
    assert _build(tmp_path / "option", f"--shards={tmp_path}/shards") == 0
    assert _build(tmp_path / "config", source_shards=f"{tmp_path}/shards") == 0
    files, option, config = (
        pq.read_table(tmp_path / name / "pairs.parquet").to_pylist() for name in ("files", "option", "config")
    )
    assert option == config
    place = ("image_path", "image_offset", "image_bytes")
    assert [{**row, **dict.fromkeys(place)} for row in option] == [{**row, **dict.fromkeys(place)} for row in files]
    reader, images = PictureReader(tmp_path / "shards"), PictureReader(tmp_path / "images")
    for inside, file in zip(option, files, strict=True):
        assert reader.read(*(inside[name] for name in place)).tobytes() == images.read(file["image_path"]).tobytes()
    with (tmp_path / "option" / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    training = [row for row in option if row["split"] == "train"]
    assert rows == [
        {"image_path": f"../shards/{row['image_path']}", "text_content": row["caption"],
         "image_offset": str(row["image_offset"]), "image_bytes": str(row["image_bytes"])}
        for row in training
    ]  # fmt: skip


def test_what_is_broken_in_shards_is_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    members = _shards(tmp_path / "shards")
    write_tar(
        tmp_path / "shards" / "2.tar", [*members[:2], ("a.txt", b"x"), ("b.webp", b"no picture"), ("b.txt", b"x")]
    )
    last = tmp_path / "shards" / "1.tar"
    last.write_bytes(last.read_bytes()[:20_000])
    assert _build(tmp_path / "out", f"--shards={tmp_path}/shards", max_bad_fraction=0.2) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {cause: count for cause, count in report["broken_in_shards"].items() if count} == {
        "truncated_shard": 1, "caption_without_picture": 1,
    }  # fmt: skip
    assert {one["shard"] for one in report["broken_in_shards_named"]} == {"1.tar", "2.tar"}
    assert report["bad_pictures"]["undecodable"] == 1
    assert report["bad_pictures_named"][0]["image_path"] == "2.tar"
    assert report["dropped"]["duplicate_pair"] == 1
    assert 20 < report["pairs"] == report["rows"] - 2 < 40
    assert "'truncated_shard': 1" in (tmp_path / "out" / "log").read_text()


def test_lost_shards_are_refused_as_the_samples_they_had_and_told_what_they_are(tmp_path: Path) -> None:
    members = _shards(tmp_path / "shards")
    (tmp_path / "shards" / "2.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 1\n")
    write_tar(tmp_path / "plain.tar", members)
    (tmp_path / "shards" / "3.tar").write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    (tmp_path / "shards" / "4.tar").touch()
    assert _build(tmp_path / "out", f"--shards={tmp_path}/shards", threads=2) == 1
    told = (tmp_path / "out" / "log").read_text()
    assert "with about 60 samples lost) beside 40 whole pictures" in told
    for words in ("a git-lfs pointer of 50 bytes", "compressed by gzip; gunzip it", "an empty file"):
        assert words in told
    assert "Traceback" not in told


def test_a_refused_run_leaves_no_work_folder(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("image_path,text_content\n")
    assert _build(tmp_path / "out", f"--csv={tmp_path}/own.csv") == 1
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".work")]


def test_scans_split_files_by_option_or_by_config(tmp_path: Path) -> None:
    names = [f"COCO_2014_{number:012d}.jpg" for number in range(12)]
    captions = [f"caption {number} of {name}" for name in names for number in range(5)]
    write_scan(tmp_path / "coco", "train", [str(number) for number in range(12)], captions, names)
    changes = {"validation_fraction": 0.3, "noise": {"fraction": 0.5, "placing": "permutation"}}
    assert _build(tmp_path / "a", f"--scan={tmp_path}/coco", **changes) == 0
    assert _build(tmp_path / "b", source_scan=f"{tmp_path}/coco", **changes) == 0
    assert (tmp_path / "a" / "pairs.parquet").read_bytes() == (tmp_path / "b" / "pairs.parquet").read_bytes()
    manifest = pq.read_table(tmp_path / "a" / "pairs.parquet").to_pylist()
    assert len(manifest) == 60
    for row in manifest:
        own = row["caption"].endswith(Path(row["image_path"]).name)
        assert own or row["is_noisy"]
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert 0 < report["noise"]["noisy_pairs"] <= report["noise"]["chosen_pairs"]


def test_pairs_come_from_one_source(tmp_path: Path) -> None:
    write_shard(tmp_path / "images", "00000", _rows(3))
    (tmp_path / "own.csv").write_text("image_path,text_content\n")
    assert _build(tmp_path / "both", f"--images={tmp_path}/images", f"--csv={tmp_path}/own.csv") == 1
    assert "leave all but one out" in (tmp_path / "both" / "log").read_text()
    assert _build(tmp_path / "none") == 1
    assert "no pairs: give --images" in (tmp_path / "none" / "log").read_text()
