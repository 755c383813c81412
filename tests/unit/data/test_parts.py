from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.parts import Part, bring_together, require_one_list


def test_parts_are_named_as_snakemake_names_scattered_items() -> None:
    assert Part.parse("3-of-16") == Part(3, 16)


@pytest.mark.parametrize("text", ["3", "0-of-2", "3-of-2", "1-of-0", "a-of-b", "1-of-2-of-3"])
def test_another_name_is_an_error(text: str) -> None:
    with pytest.raises(PipelineError, match="3-of-16"):
        Part.parse(text)


@pytest.mark.parametrize(("shards", "jobs"), [(1, 1), (7, 3), (3, 7), (1240, 24), (0, 2)])
def test_every_shard_is_in_one_part_and_parts_are_even(shards: int, jobs: int) -> None:
    parts = [Part(number, jobs).shards(shards) for number in range(1, jobs + 1)]
    assert [shard for part in parts for shard in part] == list(range(shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def _report(number: int, of: int, source: str) -> dict[str, object]:
    return {"part": [number, of], "source_sha256": source * 64}


def test_all_parts_of_one_list_are_needed() -> None:
    folders = [Path("1-of-2/images"), Path("2-of-2/images")]
    require_one_list(folders, [_report(1, 2, "a"), _report(2, 2, "a")])
    for reports in (
        [_report(1, 2, "a"), _report(2, 2, "b")],
        [_report(1, 2, "a"), _report(1, 2, "a")],
        [_report(1, 3, "a"), _report(2, 3, "a")],
    ):
        with pytest.raises(PipelineError, match=r"not all parts of one list.*1-of-2 \(part 1 of [23], list aaaaaaaa\)"):
            require_one_list(folders, reports)


def _part(folder: Path, shard: str) -> Path:
    (folder / shard).mkdir(parents=True)
    (folder / shard / f"{shard}0001.jpg").write_text(shard)
    (folder / f"{shard}.parquet").write_text("table")
    (folder / ".snakemake_timestamp").touch()
    return folder


def test_folders_come_together_as_links_and_the_parts_stay(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", "00000"), _part(tmp_path / "b", "00001")]
    images = tmp_path / "images"
    (images / "old").mkdir(parents=True)
    (tmp_path / ".images.merge/killed").mkdir(parents=True)
    bring_together(parts, images)
    found = sorted(path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file())
    assert found == ["00000.parquet", "00000/000000001.jpg", "00001.parquet", "00001/000010001.jpg"]
    assert (images / "00001/000010001.jpg").samefile(parts[1] / "00001/000010001.jpg")
    assert not (tmp_path / ".images.merge").exists()


def test_parts_of_two_lists_are_an_error(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", "00000"), _part(tmp_path / "b", "00000")]
    with pytest.raises(PipelineError, match="not parts of one list"):
        bring_together(parts, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_file_system_that_links_cannot_reach_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with TemporaryDirectory(dir=elsewhere) as folder:
        with pytest.raises(PipelineError, match=r"no hard links.*download_images.jobs to 1"):
            bring_together([_part(tmp_path / "a", "00000")], Path(folder, "images"))
        assert not list(Path(folder).iterdir())
