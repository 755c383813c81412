from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import ScanSource
from pipeline_steps.evaluation.datasets.scan import read_scan
from pipeline_steps.evaluation.datasets.source import AbsentError
from tests.unit.data.made_data import write_scan
from tests.unit.evaluation.datasets import made_sets

SCAN = {
    "kind": "scan", "folder": "{root}/coco", "pictures": "mscoco",
    "splits": {"test": "test", "train": "train"},
}  # fmt: skip
FILES = [f"COCO_2014_{number:012d}.jpg" for number in (7, 5)]


def test_a_set_has_its_pictures_in_the_order_of_the_ids(tmp_path: Path) -> None:
    write_scan(tmp_path / "coco", "test", ["7", "5"], ["seven", "also seven", "five", "five, too"], FILES)
    row = made_sets.row(tasks=["retrieval"], n={"test": 2, "train": 1}, sources=[SCAN])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.hole is None
    assert made.splits.keys() == {"test"}
    assert made.splits["test"].table["image_path"].to_pylist() == FILES
    assert made.splits["test"].captions == [["seven", "also seven"], ["five", "five, too"]]


def test_the_same_from_an_id_for_every_caption(tmp_path: Path) -> None:
    write_scan(tmp_path / "coco", "test", ["7", "7", "5"], ["seven", "also seven", "five"], FILES)
    found = read_scan(ScanSource(**SCAN), tmp_path)
    assert [tuple(entry.captions) for entry in found.splits["test"].entries] == [("seven", "also seven"), ("five",)]
    assert list(found.missing) == ["train"]


def test_without_its_test_files_it_is_absent_and_paths_stay_below(tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match="images does not exist"):
        read_scan(ScanSource(**SCAN), tmp_path)
    write_scan(tmp_path / "coco", "test", ["../../x"], ["out"], ["a.jpg"])
    with pytest.raises(PipelineError, match="names 1 pictures outside"):
        read_scan(ScanSource(**SCAN | {"pictures": "cc120k"}), tmp_path)
