from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.clip import ClipBundle, create_clip, load_clip, save_clip
from tests.unit.models.architectures import KINDS, make, write_architecture

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
    with pytest.raises(
        PipelineError, match=r"safetensors \(100,000 bytes\) is cut short, damaged or no file of weights"
    ):
        load_clip(folder)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_differences(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"another architecture than model.architecture = 'RN50'.*embed_dim is 128"):
        load_clip(folder, "RN50")
    load_clip(folder, ARCHITECTURE)


def test_weights_that_do_not_fit_their_configuration_are_refused_with_the_keys(folder: Path) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(PipelineError, match="does not fit the model.*resblocks.2") as caught:
        load_clip(folder)
    assert "transformer.resblocks.2.ln_1.weight" in str(caught.value)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(PipelineError, match=f"{WEIGHTS} is missing"):
        load_clip(folder)
    with pytest.raises(PipelineError, match="open_clip_config.json is missing"):
        load_clip(tmp_path / "nothing")


@pytest.mark.parametrize("architecture", ["ViT-Z-99", "config/models/absent.json"])
def test_an_unknown_architecture_is_refused(architecture: str) -> None:
    with pytest.raises(PipelineError, match="model.architecture"):
        create_clip(architecture)


@pytest.mark.parametrize("kind", KINDS)
def test_open_clip_loads_every_kind_of_model_with_equal_embeddings(kind: str, tmp_path: Path) -> None:
    bundle = make(kind, tmp_path)
    save_clip(tmp_path / "checkpoint", bundle)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/checkpoint")
    texts = ["a red flag", "the dog on a house", "a long " * 20]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}/checkpoint")(texts)
    assert torch.equal(tokens, bundle.tokenizer(texts))
    size = bundle.model.visual.image_size
    images = torch.randn(2, 3, *(size if isinstance(size, tuple) else (size, size)))
    ours, theirs = bundle.model.eval(), model.eval()
    again = load_clip(tmp_path / "checkpoint", str(tmp_path / f"small_{kind}.json")).model.eval()
    assert again.text_layout == ours.text_layout
    with torch.inference_mode():
        for other in (theirs, again):
            assert torch.equal(ours.encode_image(images, normalize=True), other.encode_image(images, normalize=True))
            assert torch.equal(ours.encode_text(tokens, normalize=True), other.encode_text(tokens, normalize=True))
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    assert torch.equal(preprocess(picture), bundle.preprocess(picture))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_every_weight(kind: str, tmp_path: Path) -> None:
    first, second = (make(kind, tmp_path).model.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert all(bool(tensor.isfinite().all()) for tensor in first.values())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_preprocessing_travels_with_the_weights(interpolation: str, resize_mode: str, tmp_path: Path) -> None:
    chosen = {
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.4),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    before = create_clip(str(write_architecture("resnet", tmp_path)), chosen)
    save_clip(tmp_path / "checkpoint", before)
    after = load_clip(tmp_path / "checkpoint")
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    assert torch.equal(before.preprocess(picture), after.preprocess(picture))
    plain = create_clip(str(write_architecture("resnet", tmp_path)))
    assert not torch.equal(plain.preprocess(picture), after.preprocess(picture))
    for bundle in (before, after):
        crop = bundle.train_transform(0.5).transforms[0]  # type: ignore[attr-defined]
        assert crop.interpolation.value == interpolation
        assert tuple(crop.scale) == (0.5, 1.0)


def test_provenance_travels_with_the_weights(bundle: ClipBundle, tmp_path: Path) -> None:
    known = {"source": "somewhere", "format": "laclip", "sha256": "ab"}
    save_clip(tmp_path / "imported", replace(bundle, provenance=known))
    save_clip(tmp_path / "trained_on", load_clip(tmp_path / "imported"))
    assert load_clip(tmp_path / "trained_on").provenance == known
    save_clip(tmp_path / "own", bundle)
    assert load_clip(tmp_path / "own").provenance == {}
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["open_clip_config.json", WEIGHTS]


def test_a_tokenizer_that_is_not_to_be_had_is_named_before_the_model_is_made(tmp_path: Path) -> None:
    path = write_architecture("siglip", tmp_path)
    absent = str(tmp_path / "no_tokenizer_here")
    config = json.loads(path.read_text())
    config["text_cfg"]["hf_tokenizer_name"] = absent
    path.write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=f"the tokenizer '{absent}' .*Run once where there is a network, or copy"):
        create_clip(str(path))


def test_a_text_model_that_is_not_to_be_had_is_named(tmp_path: Path) -> None:
    path = write_architecture("hugging_face", tmp_path)
    absent = str(tmp_path / "no_model_here")
    config = json.loads(path.read_text())
    config["text_cfg"]["hf_model_name"] = absent
    path.write_text(json.dumps(config))
    with pytest.raises(PipelineError, match=f"text tower '{absent}' .*a folder with its files"):
        create_clip(str(path))


def test_a_checkpoint_without_its_tokenizer_is_named(tmp_path: Path) -> None:
    save_clip(tmp_path / "checkpoint", make("siglip", tmp_path))
    for path in (tmp_path / "checkpoint").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(PipelineError, match="the tokenizer .*checkpoint.*hf_tokenizer_name"):
        load_clip(tmp_path / "checkpoint")


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    """By an option in the model's file, in a checkpoint's own configuration, or by the tokenizer's folder alone."""
    path, trace = write_architecture("siglip", tmp_path), tmp_path / "it_ran"
    words = tmp_path / "siglip_words"
    (words / "tokenization_own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    tokenizer = json.loads((words / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    save_clip(tmp_path / "checkpoint", create_clip(str(path)))
    (words / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(PipelineError, match="comes with code of its own, and a model is read as data"):
        create_clip(str(path))

    config = json.loads(path.read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    path.write_text(json.dumps(config))
    with pytest.raises(
        PipelineError, match="tokenizer_kwargs.trust_remote_code = True: unknown key; allowed here: clea"
    ):
        create_clip(str(path))

    whole = {"model_cfg": config, "preprocess_cfg": {}}
    (tmp_path / "checkpoint" / "open_clip_config.json").write_text(json.dumps(whole))
    with pytest.raises(PipelineError, match="open_clip_config.json: model_cfg.text_cfg.tokenizer_kwargs.trust_remote"):
        load_clip(tmp_path / "checkpoint")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timm_model_name": "vit_basee_patch16_224"}, "Unknown model (vit_basee_patch16_224)"),
        ({"timm_model_name": "test_vit", "timm_pool": "rot_attn"}, "AssertionError"),
    ],
)
def test_a_model_that_open_clip_cannot_build_is_named(changed: dict[str, str], words: str, tmp_path: Path) -> None:
    path = write_architecture("timm", tmp_path)
    config = json.loads(path.read_text())
    config["vision_cfg"] |= changed
    path.write_text(json.dumps(config))
    with pytest.raises(PipelineError, match="open_clip cannot build the model 'small_timm'") as caught:
        create_clip(str(path))
    assert words in str(caught.value)
