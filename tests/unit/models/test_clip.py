from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import ClipBundle, create_clip, load_clip, save_clip

ARCHITECTURE = "config/models/openclipart_rn.json"
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def bundle() -> ClipBundle:
    torch.manual_seed(0)
    return create_clip(ARCHITECTURE)


@pytest.fixture
def folder(bundle: ClipBundle, tmp_path: Path) -> Path:
    save_clip(tmp_path / "checkpoint", bundle)
    return tmp_path / "checkpoint"


def test_open_clip_loads_the_folder_by_its_own_means_with_equal_embeddings(bundle: ClipBundle, folder: Path) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a flag", "a fruit"])
    assert torch.equal(tokens, bundle.tokenizer(["a flag", "a fruit"]))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = bundle.model.eval(), model.eval()
    with torch.inference_mode():
        assert torch.equal(ours.encode_image(images, normalize=True), theirs.encode_image(images, normalize=True))
        assert torch.equal(ours.encode_text(tokens, normalize=True), theirs.encode_text(tokens, normalize=True))
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    assert torch.equal(preprocess(picture), bundle.preprocess(picture))


def test_a_checkpoint_cut_short_is_named(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(PipelineError, match=r"safetensors \(100,000 bytes\) is cut short or damaged"):
        load_clip(folder)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_differences(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"another architecture than model.architecture = 'RN50'.*embed_dim is 128"):
        load_clip(folder, "RN50")
    load_clip(folder, ARCHITECTURE)


def test_weights_that_do_not_fit_their_configuration_are_refused_with_the_keys(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(PipelineError, match="do not fit their configuration.*resblocks.2") as caught:
        load_clip(folder)
    assert "transformer.resblocks.2.ln_1.weight" in str(caught.value)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(PipelineError, match=f"{WEIGHTS} is missing"):
        load_clip(folder)
    with pytest.raises(PipelineError, match="open_clip_config.json is missing or is not an open_clip configuration"):
        load_clip(tmp_path / "nothing")


@pytest.mark.parametrize("architecture", ["ViT-Z-99", "config/models/absent.json"])
def test_an_unknown_architecture_is_refused(architecture: str) -> None:
    with pytest.raises(PipelineError, match="model.architecture"):
        create_clip(architecture)
