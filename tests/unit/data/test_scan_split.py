"""SCAN's split files: ids a picture or a caption, the three ways of naming files, and what does not belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.scan_split import scan_pairs_of
from tests.unit.data.made_data import write_scan

CAPTIONS = [f"caption {number}" for number in range(6)]


@pytest.mark.parametrize("per_caption", [False, True])
def test_ids_stand_for_a_caption_or_for_several(tmp_path: Path, per_caption: bool) -> None:
    ids = ["9", "9", "9", "37", "37", "37"] if per_caption else ["9", "37"]
    write_scan(tmp_path, "train", ids, CAPTIONS, [])
    names = ["COCO_2014_000000000009.jpg"] * 3 + ["COCO_2014_000000000037.jpg"] * 3
    assert list(scan_pairs_of(tmp_path, "train", "mscoco")) == list(zip(names, CAPTIONS, strict=True))


def test_flickr_ids_are_lines_of_a_list_of_names(tmp_path: Path) -> None:
    write_scan(tmp_path, "test", ["2", "0", "2"], CAPTIONS[:3], [])
    (tmp_path / "annotations/scan_split/image_name.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    assert [name for name, _ in scan_pairs_of(tmp_path, "test", "flickr30k")] == ["c.jpg", "a.jpg", "c.jpg"]


@pytest.mark.parametrize("inside", ["\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_what_only_some_call_the_end_of_a_line_is_part_of_a_caption_or_name(tmp_path: Path, inside: str) -> None:
    captions = ["one", f"two {inside} still two", "three"]
    write_scan(tmp_path, "train", ["0", "1", "2"], captions, [])
    names = ["a.jpg", f"b{inside}b.jpg", "c.jpg"]
    listed = tmp_path / "annotations/scan_split/image_name.txt"
    listed.write_text("\n".join(names) + "\n", encoding="utf-8", newline="\n")
    assert list(scan_pairs_of(tmp_path, "train", "flickr30k")) == list(zip(names, captions, strict=True))


@pytest.mark.parametrize("number", ["3", "-1", "x"])
def test_an_id_beyond_the_names_is_an_error(tmp_path: Path, number: str) -> None:
    write_scan(tmp_path, "test", [number], CAPTIONS[:1], [])
    (tmp_path / "annotations/scan_split/image_name.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    with pytest.raises(PipelineError, match="wanted is a line's number from 0"):
        list(scan_pairs_of(tmp_path, "test", "flickr30k"))


def test_a_file_of_noisy_captions_is_taken_as_it_is(tmp_path: Path) -> None:
    write_scan(tmp_path, "train", ["1", "2"], CAPTIONS, [])
    (tmp_path / "annotations/scan_split/0.4_noise_train_caps.txt").write_text("\n".join(CAPTIONS[::-1]) + "\n")
    found = scan_pairs_of(tmp_path, "train", "cc120k", "0.4_noise_train_caps.txt")
    assert list(found) == list(zip(["1.jpg"] * 3 + ["2.jpg"] * 3, CAPTIONS[::-1], strict=True))


@pytest.mark.parametrize(("ids", "captions"), [(["1", "2", "3", "4"], CAPTIONS), ([], CAPTIONS)])
def test_captions_that_do_not_divide_among_the_pictures_are_an_error(
    tmp_path: Path, ids: list[str], captions: list[str]
) -> None:
    write_scan(tmp_path, "train", ids, captions, [])
    with pytest.raises(PipelineError, match=f"6 captions and .* has {len(ids)} pictures.*appends"):
        scan_pairs_of(tmp_path, "train", "mscoco")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"train_ids.txt cannot be read \(No such file"):
        scan_pairs_of(tmp_path, "train", "mscoco")
    write_scan(tmp_path, "train", ["1"], CAPTIONS, [])
    with pytest.raises(PipelineError, match=r"image_name.txt cannot be read"):
        scan_pairs_of(tmp_path, "train", "flickr30k")
    (tmp_path / "annotations/scan_split/train_caps.txt").write_bytes(b"\xff\n")
    with pytest.raises(PipelineError, match=r"train_caps.txt is no UTF-8"):
        list(scan_pairs_of(tmp_path, "train", "cc120k"))
