from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.feature_file import FeatureFile
from tests.results_tree import TEST, WIDTH, unit, write_features


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "features.safetensors"
    write_features(path, signal=0.5, datasets=("openclipart", "another"))
    return path


def test_labelled_pictures_leave_out_those_without_a_class(features: Path) -> None:
    image, label, row = FeatureFile(features).labelled("openclipart", "test")
    assert len(image) == len(label) == len(row) == TEST - TEST // 5
    assert (label >= 0).all()
    assert np.array_equal(image, FeatureFile(features).matrix("openclipart/test/image")[row])


def test_data_sets_are_found_by_what_they_hold(features: Path) -> None:
    assert FeatureFile(features).datasets_with("class_text") == ("another", "openclipart")
    with pytest.raises(PipelineError, match=r"no data set with depth.*extract_features\.datasets"):
        FeatureFile(features).datasets_with("depth")


def test_a_torn_file_is_named(features: Path) -> None:
    features.write_bytes(features.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"features\.safetensors is not a whole features file"):
        FeatureFile(features)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere\.safetensors is not a whole features file"):
        FeatureFile(tmp_path / "nowhere.safetensors")


def test_rows_must_have_length_one(tmp_path: Path) -> None:
    rows = unit(np.random.default_rng(0).normal(size=(4, WIDTH)))
    for row, value in ((1, 3.0), (2, np.nan)):
        broken = rows.copy()
        broken[row] *= value
        save_file({"D/test/image": broken}, tmp_path / "f.safetensors")
        with pytest.raises(PipelineError, match=r"D/test/image has a row of length (3|nan|inf)"):
            FeatureFile(tmp_path / "f.safetensors").matrix("D/test/image")


def test_wrong_indices_are_named(tmp_path: Path) -> None:
    save_file({"D/test/label": np.array([0, 7, 2])}, tmp_path / "f.safetensors")
    file = FeatureFile(tmp_path / "f.safetensors")
    with pytest.raises(PipelineError, match="D/test/label holds 0 to 7, and -1 to 4 is allowed"):
        file.indices("D/test/label", rows=3, below=5, lowest=-1)
    with pytest.raises(PipelineError, match=r"has shape \(3,\), and \(4,\) is wanted"):
        file.indices("D/test/label", rows=4, below=9)
    with pytest.raises(PipelineError, match="D/train/label is missing"):
        file.indices("D/train/label", rows=4, below=9)
    with pytest.raises(PipelineError, match="D/classes is not in the metadata"):
        file.class_names("D")
