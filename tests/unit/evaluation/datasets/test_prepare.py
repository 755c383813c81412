"""From a row to a folder: the first source that is there, counts that must fit, holes, and nothing half-made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline_steps.core.config import ConfigError, read_yaml
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.datasets.names import chosen_names, package_data
from pipeline_steps.evaluation.datasets.prepare import dataset_row, prepare
from pipeline_steps.evaluation.datasets.prepared import read_prepared
from tests.unit.data.made_data import picture_bytes, write_picture
from tests.unit.evaluation.datasets import made_sets

PARQUET: dict[str, Any] = {
    "kind": "parquet", "path": "{root}/{split}.parquet", "splits": {"test": "test", "train": "train"},
    "label_column": "label", "class_name_column": "name",
}  # fmt: skip
TABLE = Path("config/datasets.yaml")


def _write(root: Path, split: str, pictures: list[bytes], labels: list[int] | None = None) -> None:
    labels = labels or [number % 2 for number in range(len(pictures))]
    names = ["dog" if label else "cat" for label in labels]
    pq.write_table(pa.table({"image": pictures, "label": labels, "name": names}), root / f"{split}.parquet")


def _row(**changes: Any) -> Any:
    return made_sets.row(**{"n": {"test": 4, "train": 2}, "sources": [PARQUET], **changes})


def test_a_prepared_set_holds_the_pictures_bytes_labels_and_hashes(tmp_path: Path) -> None:
    pictures = [picture_bytes(n, form=form) for n, form in enumerate(("PNG", "JPEG", "WEBP", "GIF"))]
    _write(tmp_path, "test", pictures)
    _write(tmp_path, "train", pictures[:2])
    made = made_sets.prepared(tmp_path / "folder", _row(templates="dtd"), tmp_path)
    test = pickle.loads(pickle.dumps(made.splits["test"]))
    assert test.label_hash == hashlib.sha256(b"0,1,0,1").hexdigest()[:12]
    digests = [hashlib.sha256(content).hexdigest() for content in pictures]
    assert test.content_hash == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert test.table["sha256"].to_pylist() == digests
    kept = (tmp_path / "folder" / "pictures.tar").read_bytes()
    places = zip(*(test.table[name].to_pylist() for name in ("image_offset", "image_bytes")), strict=True)
    assert [kept[offset : offset + size] for offset, size in places] == pictures
    with tarfile.open(tmp_path / "folder" / "pictures.tar") as tar:
        assert [tar.extractfile(member).read() for member in tar] == [*pictures, *pictures[:2]]  # type: ignore[union-attr]
    for row, content in enumerate(pictures):
        assert np.array_equal(np.asarray(test.picture(row)), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    assert made.splits["train"].table["phash"].null_count == 2
    theirs = imagehash.phash(Image.open(io.BytesIO(pictures[0])).convert("RGB")).hash
    ours = np.unpackbits(np.frombuffer(test.table["phash"][0].as_py().to_bytes(8, "big", signed=True), np.uint8))
    assert np.count_nonzero(theirs.ravel() != ours) <= 6
    assert (made.classes, made.templates) == (("cat", "dog"), tuple(package_data("templates")["dtd"]))
    assert made.evaluator == "2"


def test_a_folder_is_the_same_however_many_processes_made_it_and_may_be_moved(tmp_path: Path) -> None:
    _write(tmp_path, "test", [picture_bytes(n) for n in range(1100)])
    row = made_sets.row(n={"test": 1100}, sources=[{**PARQUET, "splits": {"test": "test"}}])
    for processes in (1, 2):
        prepare("made", row, tmp_path, tmp_path / f"by{processes}", processes=processes)
    names = sorted(path.name for path in (tmp_path / "by1").iterdir())
    assert names == ["dataset.json", "pictures.tar", "test.parquet"]
    for name in names:
        assert (tmp_path / "by1" / name).read_bytes() == (tmp_path / "by2" / name).read_bytes()
    (tmp_path / "by2").rename(tmp_path / "moved")
    assert read_prepared(tmp_path / "moved").splits["test"].picture(1099).size == (24, 20)


def test_the_first_source_that_is_there_is_taken_and_named(tmp_path: Path) -> None:
    _write(tmp_path, "test", [picture_bytes(n) for n in range(2)])
    absent = {**PARQUET, "path": "{root}/elsewhere/{split}.parquet", "splits": {"test": "test"}}
    there = {**PARQUET, "splits": {"test": "test"}}
    row = made_sets.row(sources=[absent, there, {**there, "path": "{root}/never_looked_at.parquet"}])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.source == f"parquet: {tmp_path}/{{split}}.parquet"
    row = made_sets.row(sources=[absent, absent], remedy="put it into {root}/elsewhere")
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    line = f"parquet: {tmp_path}/elsewhere/test.parquet does not exist"
    assert made.hole == f"no source is there: {line}; {line}. Remedy: put it into {tmp_path}/elsewhere"
    assert (made.splits, made.source, made.tasks, made.title) == ({}, None, ("classification",), "Made")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": {"test": 5, "train": 2}}, "the split test (test) has 4 pictures, and 5 are expected"),
        ({"classes": 3}, "it has 2 class names, and 3 are expected"),
        ({"classnames": "eurosat"}, "it has 10 class names, and 2 are expected"),
        ({"classnames": "nothing"}, "`classnames: nothing` is no key of clip-benchmark's; allowed: source, flowers"),
        ({"templates": "source"}, "`templates: source`, and the source brings none"),
        ({"tasks": ["classification", "retrieval"]}, "the split test (test) has no captions"),
    ],
)
def test_a_set_that_is_not_what_its_row_says_is_a_hole(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    for split, count in (("test", 4), ("train", 2)):
        _write(tmp_path, split, [picture_bytes(n) for n in range(count)])
    made = made_sets.prepared(tmp_path / "folder", _row(**change), tmp_path)
    assert made.hole is not None
    assert made.hole.startswith(f"parquet: {tmp_path}/{{split}}.parquet is there, but: ")
    assert words in made.hole
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["dataset.json"]


def test_other_captions_have_another_hash(tmp_path: Path) -> None:
    source = {"kind": "captions_csv", "path": "{root}/test.csv", "splits": {"test": "test"}}
    row = made_sets.row(tasks=["retrieval"], sources=[source])
    found = []
    for number in range(2):
        write_picture(tmp_path / f"{number}.png", number)
    for number, caption in enumerate(("a cat", "a cow")):
        (tmp_path / "test.csv").write_text(f"image,caption\n0.png,{caption}\n1.png,a dog\n")
        found.append(made_sets.prepared(tmp_path / f"set{number}", row, tmp_path).splits["test"])
    assert found[0].label_hash != found[1].label_hash
    assert found[0].content_hash == found[1].content_hash


def test_a_caption_that_is_no_unicode_and_a_label_without_classes_are_a_hole(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", 0)
    image = {"split": "test", "filename": "0.png", "sentences": [{"raw": "\ud800"}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [image]}))
    source = {"kind": "karpathy", "path": "{root}/k.json", "images": "{root}", "splits": {"test": "test"}}
    made = made_sets.prepared(
        tmp_path / "a", made_sets.row(tasks=["retrieval"], n={"test": 1}, sources=[source]), tmp_path
    )
    assert "k.json is not what it should be: JSON is malformed" in str(made.hole)
    pq.write_table(pa.table({"image": [picture_bytes(0)], "label": [0], "text": ["a cat"]}), tmp_path / "test.parquet")
    labelled = PARQUET | {"splits": {"test": "test"}, "caption_column": "text"}
    labelled.pop("class_name_column")
    row = made_sets.row(tasks=["retrieval"], n={"test": 1}, sources=[labelled])
    made = made_sets.prepared(tmp_path / "b", row, tmp_path)
    assert "has the label 0, and the row has no classes" in str(made.hole)


def test_a_label_beyond_the_classes_is_a_hole(tmp_path: Path) -> None:
    _write(tmp_path, "test", [picture_bytes(n) for n in range(4)], [0, 1, 2, 1])
    made = made_sets.prepared(tmp_path / "folder", _row(classnames=["a", "b"]), tmp_path)
    assert made.hole is not None
    assert "picture 2 of the split test has the label 2; allowed: 0 to 1" in made.hole


def test_other_splits_that_do_not_fit_are_missing_by_name_and_test_stays(tmp_path: Path) -> None:
    _write(tmp_path, "test", [picture_bytes(n) for n in range(4)])
    made = made_sets.prepared(tmp_path / "folder", _row(), tmp_path)
    assert made.missing == {"train": f"{tmp_path}/train.parquet does not exist"}
    _write(tmp_path, "train", [picture_bytes(n) for n in range(3)])
    made = made_sets.prepared(tmp_path / "folder", _row(n={"test": 4, "train": 2, "validation": 1}), tmp_path)
    assert made.missing == {
        "train": "the split train (train) has 3 pictures, and 2 are expected",
        "validation": "the source has no such split",
    }
    assert (made.hole, made.splits.keys()) == (None, {"test"})
    assert not (tmp_path / "folder" / "train.parquet").exists()
    assert made_sets.prepared(tmp_path / "f", _row(n={"test": 4, "train": None}), tmp_path).splits["train"].n == 3
    _write(tmp_path, "train", [picture_bytes(0), b"no picture"])
    made = made_sets.prepared(tmp_path / "folder", _row(), tmp_path)
    assert (made.hole, made.splits.keys()) == (None, {"test"})
    assert made.missing == {
        "train": "picture 1 of the split train cannot be read "
        "(UnidentifiedImageError: cannot identify these bytes; read are JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF, "
        "JPEG2000)"
    }
    assert not (tmp_path / "folder" / "train.parquet").exists()


@pytest.mark.parametrize("damage", [b"no picture", b""])
def test_a_picture_that_cannot_be_decoded_is_named(damage: bytes, tmp_path: Path) -> None:
    good = [picture_bytes(n) for n in range(4)]
    _write(tmp_path, "test", [good[0], damage, *good[2:]])
    made = made_sets.prepared(tmp_path / "a", _row(), tmp_path)
    assert made.hole is not None
    assert "picture 1 of the split test cannot be read (UnidentifiedImageError: " in made.hole
    folder = tmp_path / "files"
    for number in range(2):
        write_picture(folder / f"{number}.jpg", number)
    (folder / "1.jpg").write_bytes(picture_bytes(1, form="JPEG")[:200])
    (folder / "labels.csv").write_text("image,label\n0.jpg,0\n1.jpg,1\n")
    (folder / "classes.py").write_text('{"classes": ["a", "b"], "templates": []}')
    row = made_sets.row(sources=[{"kind": "ncu", "folder": "{root}/files", "splits": {"test": "test"}}])
    made = made_sets.prepared(tmp_path / "b", row, tmp_path)
    assert made.hole is not None
    assert f"picture 1 of the split test ({folder}/1.jpg) cannot be read (OSError: " in made.hole


def test_a_killed_preparation_leaves_nothing_and_is_made_again(tmp_path: Path) -> None:
    _write(tmp_path, "test", [picture_bytes(n) for n in range(50)] * 400)
    row = made_sets.row(n={"test": 20_000}, sources=[{**PARQUET, "splits": {"test": "test"}}])
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline_steps.evaluation.datasets.prepare import dataset_row, prepare\n"
        f"prepare('made', dataset_row(Path({str(tmp_path / 'rows.yaml')!r}), 'made'), Path({str(tmp_path)!r}),"
        f" Path({str(tmp_path / 'folder')!r}), processes=1)"
    )
    source = json.dumps({**PARQUET, "splits": {"test": "test"}})
    (tmp_path / "rows.yaml").write_text(
        f"made: {{title: Made, tasks: [classification], metric: accuracy, n: {{test: 20000}}, classes: 2, "
        f"sources: [{source}]}}\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".folder.*.partial/pictures.tar")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "folder").exists()
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.splits["test"].n == 20_000
    assert not list(tmp_path.glob(".folder.*.partial"))


def test_what_is_no_prepared_folder_and_a_lost_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="dataset.json is missing. Run the stage prepare_dataset again"):
        read_prepared(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(PipelineError, match="is no prepared evaluation set"):
        read_prepared(tmp_path)
    _write(tmp_path, "test", [picture_bytes(n) for n in range(4)])
    made = made_sets.prepared(tmp_path / "folder", _row(), tmp_path)
    os.truncate(tmp_path / "folder" / "pictures.tar", 700)
    with pytest.raises(PipelineError, match=r"pictures.tar cannot be read .* run the stage prepare_dataset again"):
        made.splits["test"].picture(3)


def test_names_are_clip_benchmarks_the_sources_or_a_list() -> None:
    assert chosen_names("classnames", "eurosat", [])[0] == "annual crop land"
    assert len(chosen_names("templates", "imagenet1k", [])) == 80
    assert chosen_names("classnames", "source", ["a", "b"]) == ["a", "b"]
    assert chosen_names("templates", ["a {c}"], ["other"]) == ["a {c}"]


@pytest.mark.parametrize(
    ("kind", "own", "words"),
    [
        ("templates", ["a {c}", "a photo of a {}."], r"is 'a photo of a {}.'; wanted is {c} for the class name"),
        ("classnames", ["a", " "], r"is ' '; wanted is a name in Unicode"),
        ("classnames", ["a", "\ud800"], r"is '\\ud800'; wanted is a name in Unicode"),
    ],
)
def test_what_a_source_calls_its_classes_is_checked(kind: Any, own: list[str], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        chosen_names(kind, "source", own)


def test_every_row_of_the_table_is_sound() -> None:
    rows = {name: dataset_row(TABLE, name) for name in read_yaml([TABLE])}
    for name, row in rows.items():
        for kind, wanted in (("classnames", row.classnames), ("templates", row.templates)):
            assert not isinstance(wanted, str) or wanted == "source" or wanted in package_data(kind), name  # type: ignore[arg-type]
    sizes = {name: row.n["test"] for name, row in rows.items()}
    of_clip = {
        "caltech101": 6085, "cifar10": 10_000, "cifar100": 10_000, "dtd": 1880, "fgvc_aircraft": 3333,
        "renderedsst2": 1821, "flowers": 6149, "food101": 25_250, "gtsrb": 12_630, "pets": 3669, "resisc45": 25_200,
        "sun397": 19_850, "eurosat": 5000, "cars": 8041, "stl10": 8000, "imagenet1k": 50_000, "flickr30k": 1000,
        "mscoco": 5000,
    }  # fmt: skip
    assert of_clip.items() <= sizes.items()
    per_class = {name for name, row in rows.items() if row.metric == "mean_per_class"}
    assert per_class == {"caltech101", "fgvc_aircraft", "flowers", "pets"}
    assert rows["mscoco"].folds == 5


def test_an_unknown_row_is_named_with_the_known_ones(tmp_path: Path) -> None:
    table = tmp_path / "sets.yaml"
    table.write_text("mine: {}\n")
    with pytest.raises(ConfigError, match="'other' is no row of .*sets.yaml; allowed: mine"):
        dataset_row(table, "other")
