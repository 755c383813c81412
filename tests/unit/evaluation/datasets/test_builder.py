"""clip-benchmark's builder against itself: the same pictures, labels, captions and names, without decoding them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_benchmark.datasets.builder import build_dataset, get_dataset_default_task

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema.datasets import ClipBenchmarkSource
from pipeline_steps.evaluation.datasets.builder import read_clip_benchmark
from pipeline_steps.evaluation.datasets.source import AbsentError
from tests.unit.data.made_data import write_picture
from tests.unit.evaluation.datasets import made_sets

RETRIEVAL = ("flickr30k", "mscoco_captions")
UNSORTED = ("sun397",)
SPLITS = {
    "dtd": {"test": "test", "train": "train", "validation": "val"},
    "fgvc_aircraft": {"test": "test", "train": "train", "validation": "val"},
    "renderedsst2": {"test": "test", "train": "train", "validation": "val"},
    "pets": {"test": "test", "train": "trainval"},
    "imagenet1k": {"test": "val", "train": "train"},
    **{name: {"test": "test", "train": "train"} for name in ("cars", "fer2013", "food101", "gtsrb")},
    **{name: {"test": "all"} for name in ("caltech101", "eurosat", "sun397")},
    **{name: {"test": "test"} for name in RETRIEVAL},
}


def _source(name: str, **changes: Any) -> dict[str, Any]:
    values = {"kind": "clip_benchmark", "dataset": name, "root": "{root}/made", "splits": SPLITS[name]}
    return {**values, "download": False, **changes}


def _build(name: str, root: Path, split: str) -> Any:
    return build_dataset(
        name, root=str(root), split="test" if split == "val" and name == "imagenet1k" else split, download=False,
        transform=np.asarray, task=get_dataset_default_task(name),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(SPLITS))
def test_a_set_is_what_the_builder_gives(name: str, tmp_path: Path) -> None:
    made_sets.MADE[name](tmp_path / "made")
    expected = {split: _build(name, tmp_path / "made", own) for split, own in SPLITS[name].items()}
    row = made_sets.row(
        tasks=["retrieval" if name in RETRIEVAL else "classification"],
        n={split: len(found) for split, found in expected.items()},
        classes=None if name in RETRIEVAL else len(expected["test"].classes),
        sources=[_source(name)],
    )
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.hole is None
    assert made.missing == {}
    assert made.source == f"clip_benchmark: {name} in {tmp_path / 'made'}"
    for split, found in expected.items():
        got = made.splits[split]
        rows = list(range(got.n))
        if name in UNSORTED:
            rows = sorted(rows, key=lambda row: str(found._image_files[row]))
        assert got.split == SPLITS[name][split]
        for row_number, theirs in enumerate(rows):
            picture, answer = found[theirs]
            assert np.array_equal(np.asarray(got.picture(row_number)), picture[..., :3])
            if name in RETRIEVAL:
                assert got.captions[row_number] == answer
            else:
                assert got.labels[row_number] == answer
    if name not in RETRIEVAL:
        assert list(made.classes) == list(expected["test"].classes)
    kept_apart = (tmp_path / "folder" / "pictures.tar").exists()
    assert kept_apart == (name == "fer2013")  # its reader has no paths: lossless PNGs; all others are read in place


def test_a_list_makes_the_split_and_its_order(tmp_path: Path) -> None:
    made_sets.sun397(tmp_path / "made")
    (tmp_path / "Testing_01.txt").write_text("/a/arch_way/outdoor/sun_11.jpg\n/a/abbey/sun_00.jpg\n")
    (tmp_path / "Training_01.txt").write_text("/a/abbey/sun_02.jpg\n")
    lists = {"test": "{root}/Testing_01.txt", "train": "{root}/Training_01.txt"}
    source = _source("sun397", splits={"test": "all", "train": "all"}, lists=lists)
    row = made_sets.row(n={"test": 2, "train": 1}, sources=[source])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.splits["test"].table["image_path"].to_pylist() == [
        "SUN397/a/arch_way/outdoor/sun_11.jpg", "SUN397/a/abbey/sun_00.jpg"
    ]  # fmt: skip
    assert made.splits["test"].labels.tolist() == [1, 0]
    assert made.splits["test"].split == "Testing_01"
    assert made.classes == ("abbey", "arch way outdoor")


@pytest.mark.parametrize(
    ("lines", "words"),
    [("/a/abbey/sun_99.jpg", "'a/abbey/sun_99.jpg' names 0"), ("sun_00.jpg\nabbey/sun_00.jpg", None)],
)
def test_a_list_that_names_other_pictures_is_refused(lines: str, words: str | None, tmp_path: Path) -> None:
    made_sets.sun397(tmp_path / "made")
    (tmp_path / "list.txt").write_text(lines)
    source = ClipBenchmarkSource(**_source("sun397", lists={"test": "{root}/list.txt"}))
    if words is None:
        assert len(list(read_clip_benchmark(source, tmp_path).splits["test"].entries)) == 2
        return
    with pytest.raises(PipelineError, match=words):
        read_clip_benchmark(source, tmp_path)
    with pytest.raises(AbsentError, match="absent.txt does not exist"):
        read_clip_benchmark(ClipBenchmarkSource(**_source("sun397", lists={"test": "absent.txt"})), tmp_path)


def test_a_retrieval_set_that_only_the_builder_knows_is_a_hole_with_the_way_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "flickr8k" / "0.jpg", 0)
    (tmp_path / "flickr8k" / "flickr8k_test_karpathy.txt").write_text("image,caption\n0.jpg,a dog\n")
    row = made_sets.row(
        tasks=["retrieval"],
        n={"test": 1},
        sources=[{**_source("flickr30k"), "dataset": "flickr8k", "root": "{root}/flickr8k"}],
    )
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert "gives a list with each picture of this set, and a class is wanted" in str(made.hole)
    assert "captions_csv or karpathy" in str(made.hole)


@pytest.mark.parametrize(
    ("name", "before", "words"),
    [
        ("dtd", False, "does not exist, and `download` is false"),
        ("dtd", True, "Dataset not found"),
        ("stl10", True, "Dataset not found or corrupted"),
        ("cars", True, "Dataset not found"),
        ("flickr30k", True, "wants to run `wget https://github.com/.*`, and `download` is false"),
        ("mscoco_captions", True, "wants to run `wget http://images.cocodataset.org/.*`, and `download` is false"),
        ("nothing_of_that_name", True, "Unsupported dataset: nothing_of_that_name"),
        ("vtab/resisc45", True, "No module named 'task_adaptation'"),
    ],
)
def test_what_the_builder_cannot_make_is_absent(
    name: str, before: bool, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if before:
        (tmp_path / "made").mkdir()
    source = ClipBenchmarkSource(
        kind="clip_benchmark", dataset=name, root="{root}/made", splits={"test": "test"}, download=False
    )
    with pytest.raises(AbsentError, match=words) as caught:
        read_clip_benchmark(source, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert not before or not list((tmp_path / "made").iterdir())


def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real wget, or the shell's word that there is none, against a port where nobody listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    source = ClipBenchmarkSource(
        kind="clip_benchmark", dataset="flickr30k", root="{root}/made", splits={"test": "test"}
    )
    with pytest.raises(AbsentError, match=r"flickr30k \(test\) cannot be made in .*made: ") as caught:
        read_clip_benchmark(source, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("name", ["r$(touch it_ran)", "r;touch it_ran;", "with space", "ü"])
def test_a_folder_that_a_shell_would_read_otherwise_is_not_downloaded_into(name: str, tmp_path: Path) -> None:
    source = ClipBenchmarkSource(
        kind="clip_benchmark", dataset="mscoco_captions", root=f"{{root}}/{name}", splits={"test": "test"}
    )
    with pytest.raises(AbsentError, match="clip-benchmark downloads by a shell"):
        read_clip_benchmark(source, tmp_path)
    assert not (tmp_path / name).exists()


def test_a_download_that_stopped_halfway_is_seen_by_its_size(tmp_path: Path) -> None:
    made_sets.renderedsst2(tmp_path / "made")
    row = made_sets.row(n={"test": 1821, "train": 2}, sources=[_source("renderedsst2", splits={"test": "test"})])
    made = made_sets.prepared(tmp_path / "folder", row, tmp_path)
    assert made.hole is not None
    assert "the split test (test) has 2 pictures, and 1,821 are expected" in made.hole
    assert made.splits == {}
