from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features, SetFacts, SplitFacts
from tests.feature_tree import write_index
from tests.results_tree import CLASSES, TEST, TRAIN, WIDTH, unit, write_features


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "features.json"
    write_features(path, signal=0.5, datasets=("openclipart", "another"))
    return path


def _holed(tmp_path: Path) -> Features:
    known = {"metric": "accuracy", "source": None, "evaluator": "1"}
    write_index(
        tmp_path / "f.json",
        {"whole/test/image": np.eye(3)},
        {
            "whole": SetFacts(
                title="Whole", tasks=("classification",), missing={"train": "no such folder"},
                splits={"test": SplitFacts("val", 3, "abc")}, **known,
            ),
            "cars": SetFacts(title="Cars", tasks=("classification",), hole="the link is dead", **known),
            "coco": SetFacts(title="COCO", tasks=("retrieval",), hole="ask for it", **known),
        },
    )  # fmt: skip
    return Features(tmp_path / "f.json")


def test_labelled_pictures_leave_out_those_without_a_class(features: Path) -> None:
    image, label, row = Features(features).labelled("openclipart", "test")
    assert len(image) == len(label) == len(row) == TEST - TEST // 5
    assert (label >= 0).all()
    assert np.array_equal(image, Features(features).matrix("openclipart/test/image")[row])


def test_data_sets_are_found_by_what_they_hold(features: Path) -> None:
    assert Features(features).datasets_with("class_text") == ("another", "openclipart")
    assert Features(features).datasets_with("depth") == ()


def test_holes_are_of_their_task_and_of_the_split_that_is_asked_for(tmp_path: Path) -> None:
    found = _holed(tmp_path)
    assert found.holes("classification") == {"cars": "the link is dead"}
    assert found.holes("classification", "train") == {"cars": "the link is dead", "whole": "no such folder"}
    assert found.holes("retrieval") == {"coco": "ask for it"}
    assert found.datasets_with("test/caption") == ()


def test_facts_say_on_what_a_score_is_made(tmp_path: Path, features: Path) -> None:
    assert _holed(tmp_path).facts("whole", "test") == {
        "split": "val", "n_split": 3, "label_hash": "abc", "metric": "accuracy", "source": "", "evaluator": "1",
        "title": "Whole",
    }  # fmt: skip
    with pytest.raises(PipelineError, match="whole/train is no split"):
        _holed(tmp_path).facts("whole", "train")
    assert Features(features).class_names("openclipart") == [f"class {number}" for number in range(CLASSES)]


def test_rows_are_kept_as_they_are_and_normalised_when_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
    write_index(tmp_path / "f.json", {"D/test/image": rows})
    found = Features(tmp_path / "f.json")
    raw = found.raw("D/test/image")
    assert raw.shape == (50, WIDTH)
    assert np.array_equal(raw.rows(7, 20), rows[7:20])
    assert np.array_equal(raw.rows(40, 90), rows[40:])
    assert np.allclose(found.matrix("D/test/image"), unit(rows), atol=1e-7)


@pytest.mark.parametrize(("value", "told"), [(0.0, "0"), (np.nan, "nan"), (np.inf, "inf")])
def test_a_row_without_a_direction_is_named(tmp_path: Path, value: float, told: str) -> None:
    rows = np.ones((4, WIDTH), dtype=np.float32)
    rows[2] *= value
    write_index(tmp_path / "f.json", {"D/test/image": rows})
    with pytest.raises(PipelineError, match=rf"D/test/image has a row of length {told} \(row 2\)"):
        Features(tmp_path / "f.json").matrix("D/test/image")


def test_a_torn_or_missing_index_is_named(features: Path, tmp_path: Path) -> None:
    features.write_bytes(features.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"features\.json is not what it should be.*Delete it and run"):
        Features(features)
    with pytest.raises(PipelineError, match=r"nowhere\.json is missing"):
        Features(tmp_path / "nowhere.json")


@pytest.mark.parametrize("damage", ["torn", "changed", "another", "gone"])
def test_a_file_of_the_cache_that_is_not_the_one_meant_is_refused_with_the_remedy(features: Path, damage: str) -> None:
    tensors = json.loads(features.read_text())["tensors"]
    cache = features.with_suffix(".cache")
    path, other = (
        cache / tensors[name]["key"][:2] / f"{tensors[name]['key']}.safetensors"
        for name in ("openclipart/test/image", "another/test/image")
    )
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-40])
    elif damage == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "another":
        shutil.copyfile(other, path)
    else:
        path.unlink()
    fact = "is gone" if damage == "gone" else "is torn or is not the one"
    with pytest.raises(PipelineError, match=rf"openclipart/test/image is in .*{path.name}, which {fact}.*run extract_"):
        Features(features).matrix("openclipart/test/image")
    assert len(Features(features).matrix("openclipart/train/image")) == TRAIN


def test_an_index_moves_with_its_cache(features: Path, tmp_path: Path) -> None:
    before = Features(features).matrix("openclipart/test/image")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (features, features.with_suffix(".cache")):
        path.rename(moved / path.name)
    assert np.array_equal(Features(moved / "features.json").matrix("openclipart/test/image"), before)


def test_wrong_indices_are_named(tmp_path: Path) -> None:
    write_index(tmp_path / "f.json", {"D/test/label": np.array([0, 7, 2])})
    file = Features(tmp_path / "f.json")
    with pytest.raises(PipelineError, match="D/test/label holds 0 to 7, and -1 to 4 is allowed"):
        file.indices("D/test/label", rows=3, below=5, lowest=-1)
    with pytest.raises(PipelineError, match=r"has shape \(3,\), and \(4,\) is wanted"):
        file.indices("D/test/label", rows=4, below=9)
    with pytest.raises(PipelineError, match="D/train/label is missing"):
        file.indices("D/train/label", rows=4, below=9)
    with pytest.raises(PipelineError, match="D is no data set of it"):
        file.class_names("D")
