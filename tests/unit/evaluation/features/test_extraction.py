from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.pictures import PictureReader
from pipeline_steps.evaluation.datasets import prepared
from pipeline_steps.evaluation.datasets.prepared import PreparedSet
from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.models.clip import load_clip
from tests.unit.evaluation.features import made
from tests.unit.evaluation.features.made import SETTINGS, extracted

BOTH = replace(SETTINGS, taps=("projected", "penultimate"))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedSet]:
    folder = tmp_path_factory.mktemp("sets")
    return [made.classification_set(folder, "pets", test=7, train=9), made.retrieval_set(folder, "coco", pictures=6)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return made.checkpoints(tmp_path_factory.mktemp("models"), 3)


class CountingReader(PictureReader):
    """A reader that also notes what it has read."""

    seen: list[tuple[str, int | None]] = []

    def read(self, image_path: str, offset: int | None = None, *rest: Any) -> Image.Image:
        self.seen.append((image_path, offset))
        return super().read(image_path, offset, *rest)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, sets: list[PreparedSet]) -> Iterator[list[tuple[str, int | None]]]:
    """What the sets' readers read while the test runs."""
    monkeypatch.setattr(CountingReader, "seen", [])
    monkeypatch.setattr(prepared, "PictureReader", CountingReader)
    splits = [split for found in sets for split in found.splits.values()]
    for split in splits:
        split.__dict__.pop("_reader", None)
    yield CountingReader.seen
    for split in splits:
        split.__dict__.pop("_reader", None)


def _keys(features: Features) -> list[str]:
    return sorted(json.loads(features.path.read_text())["tensors"])


def _rows(features: Features, key: str) -> np.ndarray:
    found = features.raw(key)
    return found.rows(0, len(found))


def test_embeddings_are_those_of_the_model_one_by_one(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path
) -> None:
    (features,), _ = extracted(folders[:1], sets, tmp_path / "cache")
    bundle = load_clip(folders[0])
    model = bundle.model.eval()

    def texts(words: list[str]) -> torch.Tensor:
        return torch.cat([model.encode_text(bundle.tokenizer([word]), normalize=True) for word in words])

    with torch.inference_mode():
        for found, splits in ((sets[0], ("test", "train")), (sets[1], ("test",))):
            for split in splits:
                matrix = torch.from_numpy(features.matrix(f"{found.name}/{split}/image"))
                for row in range(found.splits[split].n):
                    pixels = bundle.preprocess(found.splits[split].picture(row))[None]
                    image = model.encode_image(pixels, normalize=True)[0]
                    torch.testing.assert_close(matrix[row], image, rtol=1e-4, atol=1e-5)
        classes = [F.normalize(texts([f"a {word}.", word]).mean(dim=0), dim=0) for word in ("cat", "dog")]
        found_classes = torch.from_numpy(features.matrix("pets/class_text"))
        torch.testing.assert_close(found_classes, torch.stack(classes), rtol=1e-4, atol=1e-5)
        captions = [text for of_picture in sets[1].splits["test"].captions for text in of_picture]
        found_captions = torch.from_numpy(features.matrix("coco/test/caption"))
        torch.testing.assert_close(found_captions, texts(captions), rtol=1e-4, atol=1e-5)
    assert features.labels("pets", "train").tolist() == [number % 2 for number in range(9)]
    owner = features.indices("coco/test/caption_image", rows=12, below=6)
    assert owner.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    assert features.class_names("pets") == ["cat", "dog"]
    assert features.facts("coco", "test")["n_split"] == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_one_job_of_three_checkpoints_equals_three_jobs_bit_for_bit(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path, workers: int
) -> None:
    settings = replace(BOTH, workers=workers)
    together, counts = extracted(folders, sets, tmp_path / "together", settings)
    assert counts["pictures_read"] == 7 + 9 + 6
    assert counts["pictures_encoded"] == 3 * (7 + 9 + 6)
    for number, folder in enumerate(folders):
        (alone,), _ = extracted([folder], sets, tmp_path / f"alone{number}", BOTH)
        assert _keys(alone) == _keys(together[number])
        for key in _keys(alone):
            if not key.endswith(("label", "caption_image")):
                assert np.array_equal(_rows(alone, key), _rows(together[number], key)), key
    first, second = (one.matrix("pets/test/image") for one in together[:2])
    assert not np.allclose(first, second)


def test_each_picture_is_decoded_once_for_all_checkpoints_and_preprocessings(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path, seen: list[tuple[str, int | None]]
) -> None:
    others = made.checkpoints(tmp_path / "others", 1, mean=0.3)
    features, _ = extracted([*folders, *others], sets, tmp_path / "cache")
    assert len(seen) == len(set(seen)) == 7 + 9 + 6
    (alone,), _ = extracted(others, sets, tmp_path / "alone")
    assert np.array_equal(_rows(alone, "pets/test/image"), _rows(features[3], "pets/test/image"))
    assert not np.allclose(_rows(features[0], "pets/test/image"), _rows(features[3], "pets/test/image"))


def test_only_what_the_cache_lacks_is_computed(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path, seen: list[tuple[str, int | None]]
) -> None:
    cache = tmp_path / "cache"
    extracted(folders[:2], sets[:1], cache)
    read = len(seen)
    features, counts = extracted(folders, sets, cache)
    assert counts == {
        "pictures_read": 7 + 9 + 6, "pictures_encoded": 7 + 9 + 3 * 6, "pictures_from_cache": 2 * (7 + 9),
        "texts_encoded": 4 + 3 * 12, "texts_from_cache": 2 * 4,
    }  # fmt: skip
    assert len(seen) == read + 7 + 9 + 6
    tensors = json.loads(features[1].path.read_text())["tensors"]
    torn = cache / tensors["pets/train/image"]["key"][:2] / f"{tensors['pets/train/image']['key']}.safetensors"
    before = torn.read_bytes()
    torn.write_bytes(before[:-3])
    with pytest.raises(PipelineError, match="pets/train/image is in .* torn"):
        features[1].matrix("pets/train/image")
    _, counts = extracted(folders, sets, cache)
    assert (counts["pictures_read"], counts["pictures_encoded"], counts["texts_encoded"]) == (9, 9, 0)
    assert torn.read_bytes() == before
    assert np.array_equal(Features(features[1].path).matrix("pets/train/image"), features[1].matrix("pets/train/image"))


def test_the_training_split_has_the_taps_that_are_asked_for_and_test_always_the_projected_one(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path
) -> None:
    (features,), _ = extracted(folders[:1], sets, tmp_path / "c", replace(SETTINGS, taps=("penultimate",)))
    keys = _keys(features)
    assert [key for key in keys if key.startswith("pets/train")] == ["pets/train/label", "pets/train/penultimate"]
    assert {"pets/test/image", "pets/test/penultimate"} <= set(keys)
    assert features.raw("pets/test/penultimate").shape == (7, 32)
    assert features.raw("pets/test/image").shape == (7, 24)


def test_a_set_that_could_not_be_had_has_no_features_and_its_hole_is_handed_on(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path
) -> None:
    hole = dataclasses.replace(sets[0], name="cars", splits={}, hole="the link is dead", missing={})
    (features,), _ = extracted(folders[:1], [hole, sets[1]], tmp_path / "cache")
    assert not [key for key in _keys(features) if key.startswith("cars")]
    assert features.holes("classification") == {"cars": "the link is dead"}


def test_an_index_does_not_depend_on_who_else_was_in_the_job(
    sets: list[PreparedSet], folders: list[Path], tmp_path: Path
) -> None:
    together, _ = extracted(folders, sets, tmp_path / "cache")
    written = [one.path.read_text() for one in together]
    (alone,), counts = extracted(folders[1:2], sets, tmp_path / "cache")
    assert counts["pictures_encoded"] == 0
    assert alone.path.read_text() == written[1]


def test_a_picture_that_is_gone_stops_the_job_and_nothing_half_done_stays(
    folders: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    found = made.retrieval_set(tmp_path, "coco", pictures=6)
    (tmp_path / "coco_source" / "5.png").unlink()
    with pytest.raises(PipelineError, match=r"5\.png cannot be read"):
        extracted(folders[:2], [found], tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".lock"]


def test_a_picture_that_was_exchanged_stops_the_job(
    folders: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    found = made.retrieval_set(tmp_path, "coco", pictures=6)
    (tmp_path / "coco_source" / "5.png").write_bytes((tmp_path / "coco_source" / "4.png").read_bytes())
    with pytest.raises(PipelineError, match=r"5\.png cannot be read \(its bytes have changed\)"):
        extracted(folders[:1], [found], tmp_path / "cache")


def test_a_checkpoint_that_diverged_is_named_and_nothing_of_it_is_kept(folders: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "diverged"
    shutil.copytree(folders[0], bad)
    weights = load_file(bad / "open_clip_model.safetensors")
    name = next(name for name in weights if name.startswith("visual."))
    weights[name] = torch.full_like(weights[name], 3e38)  # finite, and its sums are not
    save_file(weights, bad / "open_clip_model.safetensors")
    found = made.retrieval_set(tmp_path, "coco", pictures=6)
    with pytest.raises(PipelineError, match=r"diverged gives embeddings that are not finite: its training"):
        extracted([bad], [found], tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
