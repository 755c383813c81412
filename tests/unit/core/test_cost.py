"""Operations and memory by arithmetic; the counts of a model against what open_clip's authors publish."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.core.cost import (
    cache_folder,
    counted,
    features_memory_mib,
    training_memory_mib,
    training_operations,
)
from pipeline_steps.core.errors import PipelineError
from tests.unit.paths import CONFIG, REPOSITORY

pytestmark = pytest.mark.usefixtures("warm")

CONFIGURATION = load_config(read_yaml([CONFIG, REPOSITORY / "config/paper/cc3m_vitb16.yaml"]))
TRAINING = CONFIGURATION.unlearn.training


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_what_was_counted_is_read_from_the_cache_and_a_torn_file_of_it_is_not(tmp_path: Path) -> None:
    architecture = str(REPOSITORY / "config/models/smoke_rn.json")
    first = counted(architecture)
    (kept,) = [
        path for path in cache_folder().glob("*.json") if first.parameters == json.loads(path.read_text())["parameters"]
    ]
    counted.cache_clear()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "image_size": 7}))
    assert counted(architecture).image_size == 7
    counted.cache_clear()
    kept.write_text("{")
    assert counted(architecture) == first


def test_a_vit_is_counted_as_its_authors_count_it() -> None:
    model = counted("ViT-B-16")
    assert model.parameters == 149_620_737
    assert (model.image_size, model.embedding_width) == (224, 512)
    # open_clip's docs/model_profile.csv: 35.13 GMACs of an image, 5.955 of a caption would be multiply-adds twice.
    assert model.image_operations == pytest.approx(35.1e9, rel=0.02)
    assert model.text_operations == pytest.approx(6e9, rel=0.02)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(PipelineError, match="'ViT-Q-99' is not known to open_clip"):
        counted("ViT-Q-99")


def test_operations_follow_epochs_pairs_captions_and_what_is_frozen() -> None:
    model = counted("ViT-B-16")
    training = replace(TRAINING, epochs=1, chunk_size=None)
    both = training_operations(training, model, 1000, 1)
    assert both == 3000 * (model.image_operations + model.text_operations)
    assert training_operations(replace(training, epochs=2, pairs=500), model, 1000, 1) == both
    assert training_operations(training, model, 1000, 2) == both + 3000 * model.text_operations
    frozen = replace(training, freeze=replace(training.freeze, image_tower=True, image_projection=True))
    assert training_operations(frozen, model, 1000, 1) == both - 2000 * model.image_operations
    assert training_operations(replace(training, chunk_size=8), model, 1000, 1) == pytest.approx(both * 4 / 3)


def test_memory_grows_with_batch_workers_model_and_processes() -> None:
    model = counted("ViT-B-16")
    base = training_memory_mib(TRAINING, model, 14)
    pictures = TRAINING.batch_size * 3 * 224 * 224 * 4 * 2 * TRAINING.workers / 2**20
    assert base > pictures
    assert training_memory_mib(replace(TRAINING, batch_size=2 * TRAINING.batch_size), model, 14) > base + 0.9 * pictures
    assert training_memory_mib(TRAINING, model, 28) > base
    assert training_memory_mib(TRAINING, dataclasses.replace(model, parameters=10 * model.parameters), 14) > base
    assert features_memory_mib(CONFIGURATION.extract_features, model, 8) > features_memory_mib(
        CONFIGURATION.extract_features, model, 1
    )
