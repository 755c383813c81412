"""Retrieval sets: any number of captions per picture, in any order; Karpathy's JSON and a CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import CaptionsCsvSource, KarpathySource
from pipeline_steps.evaluation.datasets.captions import read_captions_csv, read_karpathy
from pipeline_steps.evaluation.datasets.source import AbsentError
from tests.unit.data.made_data import write_picture
from tests.unit.evaluation.datasets import made_sets

KARPATHY = {
    "kind": "karpathy", "path": "{root}/dataset_coco.json", "images": "{root}/coco",
    "splits": {"test": "test", "train": "train", "validation": "val"},
}  # fmt: skip
CSV = {"kind": "captions_csv", "path": "{root}/{split}.csv", "splits": {"test": "test"}}


def _image(split: str, number: int, captions: int, folder: str | None = "val2014") -> dict[str, Any]:
    sentences = [{"raw": f"picture {number}, caption {place} .", "tokens": []} for place in range(captions)]
    image = {"split": split, "filename": f"{number}.jpg", "sentences": sentences}
    return {**image, "filepath": folder} if folder else image


def test_karpathys_json_gives_every_sentence_and_restval_is_training(tmp_path: Path) -> None:
    images = [
        _image("test", 3, 5), _image("restval", 4, 1), _image("test", 1, 7), _image("train", 5, 2, "train2014"),
        _image("val", 6, 1),
    ]  # fmt: skip
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    for image in images:
        write_picture(tmp_path / "coco" / image["filepath"] / image["filename"], len(image["sentences"]))
    row = made_sets.row(tasks=["retrieval"], n={"test": 2, "train": 2, "validation": 1}, folds=2, sources=[KARPATHY])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert (made.hole, made.folds, made.classes, made.templates) == (None, 2, (), ())
    assert made.splits["test"].table["image_path"].to_pylist() == ["val2014/3.jpg", "val2014/1.jpg"]
    assert [len(captions) for captions in made.splits["test"].captions] == [5, 7]
    assert made.splits["test"].captions[1][6] == "picture 1, caption 6 ."
    assert made.splits["train"].table["image_path"].to_pylist() == ["val2014/4.jpg", "train2014/5.jpg"]
    assert made.splits["test"].labels.tolist() == [-1, -1]


def test_flickrs_json_has_no_folders(tmp_path: Path) -> None:
    images = [_image("test", 3, 1, None)]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    (tmp_path / "coco").mkdir()
    found = read_karpathy(KarpathySource(**{**KARPATHY, "splits": {"test": "test"}}), tmp_path)
    assert [entry.path for entry in found.splits["test"].entries] == ["3.jpg"]


def test_a_csv_has_a_caption_a_row_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(
        ',image,caption\n0,p/2.jpg,"two, first"\n1,1.jpg,one\n2,p/2.jpg,"two\nsecond"\n3,p/2.jpg,"two, first"\n'
    )
    for name in ("1.jpg", "p/2.jpg"):
        write_picture(tmp_path / name, len(name))
    row = made_sets.row(tasks=["retrieval"], sources=[CSV])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.splits["test"].table["image_path"].to_pylist() == ["p/2.jpg", "1.jpg"]
    assert made.splits["test"].captions == [["two, first", "two\nsecond", "two, first"], ["one"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,caption\n../1.jpg,out\n", "names 1 pictures outside"),
        ("image,caption\n1.jpg, \n", "'1.jpg' has no caption, or an empty one"),
        ("picture,caption\n1.jpg,x\n", "has no column 'image'"),
        ("image,caption\n1.jpg,x\n./1.jpg,y\n", "names 1 pictures in more than one way, such as 1.jpg"),
    ],
)
def test_a_csv_of_another_form_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match=r"test.csv does not exist"):
        read_captions_csv(CaptionsCsvSource(**CSV), tmp_path)
    (tmp_path / "test.csv").write_text(text)
    with pytest.raises(PipelineError, match=words):
        read_captions_csv(CaptionsCsvSource(**CSV), tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[]", 100_000 * "[", '{"images": [{"split": "test"}]}', '{"images": 3}', '{"images": [[]]}', "null"]
)
def test_json_of_another_form_is_refused(text: str, tmp_path: Path) -> None:
    source = KarpathySource(**KARPATHY)
    with pytest.raises(AbsentError, match=r"dataset_coco.json does not exist"):
        read_karpathy(source, tmp_path)
    (tmp_path / "dataset_coco.json").write_text(text)
    with pytest.raises(AbsentError, match="coco does not exist"):
        read_karpathy(source, tmp_path)
    (tmp_path / "coco").mkdir()
    with pytest.raises(PipelineError, match="Wanted is Karpathy's") as caught:
        read_karpathy(source, tmp_path)
    assert not isinstance(caught.value, AbsentError)


def test_a_picture_that_stands_in_the_json_twice_is_refused(tmp_path: Path) -> None:
    image = {"split": "test", "filename": "1.jpg", "sentences": [{"raw": "a dog"}]}
    (tmp_path / "coco").mkdir()
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": [image, image]}))
    with pytest.raises(PipelineError, match=r"dataset_coco\.json has 1 pictures twice, such as 1\.jpg"):
        read_karpathy(KarpathySource(**{**KARPATHY, "splits": {"test": "test"}}), tmp_path)
