from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_steps.core.config import load_section
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import DownloadImagesConfig
from pipeline_steps.data.download import Workplace, child_environment, fetch, running, watch
from pipeline_steps.data.url_source import UrlSource
from tests.unit.data.made_data import gone, sample, section, write_shard, write_tar

SOUND = {"caption": "c", "status": "success"}
FAILED = {"caption": "c", "status": "failed_to_download", "error_message": "timed out"}


def _settings(**changes: object) -> DownloadImagesConfig:
    return load_section(section("download_images", **changes), "download_images", DownloadImagesConfig)


def _source(content: str = "list", bytes_per_row: int = 1000) -> UrlSource:
    table = pa.table({"url": ["http://127.0.0.1:9/1"] * 4, "caption": ["c"] * 4})
    return UrlSource(table, 0, content, bytes_per_row, 0, 1)


def _workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "images", _source(), _settings())


def test_the_work_folder_depends_on_what_would_change_the_pictures(tmp_path: Path) -> None:
    def key(source: UrlSource, settings: DownloadImagesConfig) -> str:
        return Workplace(tmp_path / "images", source, settings).shards.parent.name

    first = key(_source(), _settings())
    assert key(_source("other list"), _settings()) != first
    assert key(_source(), _settings(image_size=32)) != first
    assert key(_source(), _settings(output_format="webdataset")) != first
    assert key(_source(), _settings(threads=3, min_success_fraction=0.1)) == first


def test_poor_and_damaged_shards_are_forgotten_and_good_ones_kept(tmp_path: Path) -> None:
    work = _workplace(tmp_path)
    good = [SOUND | {"key": f"{number:09d}", "number": number} for number in range(4)]
    write_shard(work.shards, "00000", good)
    write_shard(work.shards, "00001", [*good[:1], *[FAILED | {"key": f"{number:09d}"} for number in (1, 2, 3)]])
    write_shard(work.shards, "00002", good)
    write_shard(work.shards, "00003", good)
    (work.shards / "00002_stats.json").write_text('{"count": 4, "succ')
    (work.shards / "00003.parquet").write_bytes(b"PAR1 cut short")
    work.forget_shards(0.0)
    assert [path.name for path in work.finished_shards()] == ["00000_stats.json", "00001_stats.json"]
    work.forget_shards(0.5)
    assert [path.name for path in work.finished_shards()] == ["00000_stats.json"]


def test_a_tar_shard_that_was_cut_short_or_is_missing_is_forgotten(tmp_path: Path) -> None:
    work = Workplace(tmp_path / "images", _source(), _settings(output_format="webdataset"))
    for shard in ("00000", "00001", "00002"):
        write_shard(work.shards, shard, [FAILED | {"key": f"{shard}0000"}])
        write_tar(work.shards / f"{shard}.tar", sample(1))
    cut = work.shards / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:1500])
    (work.shards / "00002.tar").unlink()
    work.forget_shards(0.0)
    assert [path.name for path in work.finished_shards()] == ["00000_stats.json"]


def test_publishing_replaces_an_older_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    work = _workplace(tmp_path)
    write_shard(work.shards, "00000", [SOUND | {"key": "000000000", "number": 1}])
    work.images.mkdir()
    (work.images / "old").touch()
    work.publish()
    assert sorted(path.name for path in work.images.iterdir()) == ["00000", "00000.parquet", "00000_stats.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_full_disk_is_noticed_before_anything_starts(tmp_path: Path) -> None:
    work = _workplace(tmp_path)
    with pytest.raises(PipelineError, match="no room on disk"):
        fetch(_source(bytes_per_row=2**60), _settings(), work)
    assert not work.shards.exists()


def test_finished_shards_need_no_new_download(tmp_path: Path) -> None:
    work, settings = _workplace(tmp_path), _settings(samples_per_shard=4)
    write_shard(work.shards, "00000", [SOUND | {"key": f"{number:09d}", "number": number} for number in range(4)])
    fetch(_source(), settings, work)
    assert not work.log.exists()


def test_shards_of_turns_that_are_asked_for_no_more_go(tmp_path: Path) -> None:
    work = _workplace(tmp_path)
    write_shard(work.shards, "00000", [FAILED | {"key": f"{number:09d}"} for number in range(4)])
    write_shard(work.shards, "00001", [SOUND | {"key": f"{number:09d}", "number": number} for number in range(4)])
    fetch(_source(), _settings(samples_per_shard=4, retry_passes=0), work)
    assert [path.name for path in work.finished_shards()] == ["00000_stats.json"]
    outcome = _source().outcome(work.shards, retry_passes=0)
    assert (outcome.urls, outcome.failures["timed_out"], outcome.lost) == (4, 4, 0)


def test_a_process_and_its_children_end_with_the_block(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(RuntimeError), running(["sh", "-c", "sleep 60 & echo $!; wait"], os.environ, log) as process:
        while not log.read_text().strip():
            pass
        raise RuntimeError
    assert process.returncode == -9
    assert gone(int(log.read_text()))


def test_standing_still_is_an_error_that_shows_the_last_lines(tmp_path: Path) -> None:
    work = _workplace(tmp_path)
    work.shards.mkdir(parents=True)
    command = [sys.executable, "-c", "import time; print('shard 3 began', flush=True); time.sleep(60)"]
    with (
        pytest.raises(PipelineError, match=r"(?s)nothing for 2 s.*shard 3 began"),
        running(command, os.environ, work.log) as process,
    ):
        watch(process, work, 4, 2.0)
    assert process.returncode == -9


def test_a_failing_img2dataset_is_reported_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "img2dataset.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PipelineError, match=r"(?s)exit code 1.*a broken installation"):
        fetch(_source(), _settings(), _workplace(tmp_path))


def test_the_child_module_is_found_from_any_folder(tmp_path: Path) -> None:
    code = "import pipeline_steps.data.img2dataset_process"
    environment = child_environment(_settings())
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert environment["OPENCV_IO_MAX_IMAGE_PIXELS"] == "20000000"
    assert environment["no_proxy"] == "127.0.0.1"
