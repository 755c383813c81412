from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation import labelled_rows
from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.evaluation.labelled_rows import ArrayMatrix, LabelledRows, Part
from tests.feature_tree import write_index

CPU = torch.device("cpu")


def made(count: int, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(count, width)).astype(np.float32), random.integers(-1, 4, count)


def whole(rows: LabelledRows) -> tuple[np.ndarray, np.ndarray]:
    feature, label = zip(*rows.blocks(), strict=True)
    return torch.cat(feature).numpy(), torch.cat(label).numpy()


@pytest.mark.parametrize("kept_bytes", [0, 2**30])
def test_the_labelled_rows_of_all_parts_come_in_order(
    kept_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled_rows, "_BLOCK_ELEMENTS", 6 * 7)
    image, label = made(50)
    write_index(tmp_path / "features.json", {"made/train/image": image[:30]})
    parts = [
        Part(Features(tmp_path / "features.json").raw("made/train/image"), label[:30]),
        Part(ArrayMatrix(image[30:]), label[30:]),
    ]
    rows = LabelledRows(parts, normalize=False, device=CPU, kept_bytes=kept_bytes)
    used = label >= 0
    assert len(rows) == used.sum()
    for _ in range(2):
        feature, found = whole(rows)
        np.testing.assert_array_equal(feature, image[used])
        np.testing.assert_array_equal(found, label[used])
    sizes = [len(feature) for feature, _ in rows.chunks(2**30)]
    assert sizes == [1] * len(rows)


def test_rows_are_normalised_when_asked() -> None:
    image, label = made(40)
    feature, _ = whole(LabelledRows([Part(ArrayMatrix(100 * image), label)], normalize=True, device=CPU))
    kept = image[label >= 0]
    np.testing.assert_allclose(feature, kept / np.linalg.norm(kept, axis=1, keepdims=True), rtol=1e-5)


def test_a_sample_is_of_the_rows_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_rows, "_BLOCK_ELEMENTS", 6 * 9)
    image, label = made(80)
    rows = LabelledRows([Part(ArrayMatrix(image), label)], normalize=False, device=CPU)
    sample = rows.sample(20).numpy()
    places = [int(np.flatnonzero((image == row).all(axis=1))[0]) for row in sample]
    assert places == sorted(set(places))
    assert (label[places] >= 0).all()
    np.testing.assert_array_equal(rows.sample(20).numpy(), sample)
    np.testing.assert_array_equal(rows.sample(1000).numpy(), image[label >= 0])


@pytest.mark.parametrize(("value", "said"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "of length zero")])
def test_rows_that_cannot_be_used_are_refused_with_their_matrix(value: float, said: str) -> None:
    image, label = made(10)
    image[4], label[4] = value, 1
    rows = LabelledRows([Part(ArrayMatrix(image, "set/train/image"), label)], normalize=True, device=CPU)
    with pytest.raises(PipelineError, match=rf"set/train/image has a row .*{said}"):
        list(rows.blocks())


def test_labels_of_another_length_are_refused() -> None:
    image, label = made(10)
    with pytest.raises(PipelineError, match="an array has 10 rows and 9 labels belong to it"):
        LabelledRows([Part(ArrayMatrix(image), label[:9])], normalize=True, device=CPU)
