from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import ImportReferenceConfig
from pipeline_steps.models.checkpoints import import_clip
from pipeline_steps.models.clip import create_clip, load_clip, save_clip
from pipeline_steps.models.prompt import PROMPT_FILE, encode_negative_text
from pipeline_steps.models.tokens import tokenizer_for
from tests.oracles import laclip as oracle
from tests.unit.models.architectures import make, write_architecture
from tests.unit.models.test_laclip import SMALL, small_architecture
from tests.unit.models.test_weight_file import scripted_clip


def settings(weights: Path | str | None, form: str, sha256: str | None = None) -> ImportReferenceConfig:
    return ImportReferenceConfig(weights=None if weights is None else str(weights), format=form, sha256=sha256)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors"])
@pytest.mark.parametrize("kind", ["resnet", "coca", "siglip", "timm"])
def test_open_clips_own_files_are_imported(kind: str, ending: str, tmp_path: Path) -> None:
    bundle = make(kind, tmp_path)
    path, weights = tmp_path / f"w.{ending}", bundle.model.state_dict()
    if ending == "safetensors":
        save_file(weights, path)
    else:
        content = {"epoch": 1, "name": "x", "state_dict": {f"module.{name}": t for name, t in weights.items()}}
        torch.save(content if ending == "pt" else weights, path)
    imported = import_clip(settings(path, "open_clip"), str(tmp_path / f"small_{kind}.json")).bundle
    found = imported.model.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert imported.provenance == {
        "source": str(path),
        "format": "open_clip",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "architecture": str(tmp_path / f"small_{kind}.json"),
    }


def test_an_older_open_clip_file_of_a_custom_text_tower_is_imported(tmp_path: Path) -> None:
    bundle = make("custom_text", tmp_path)
    weights = {name.removeprefix("text."): tensor for name, tensor in bundle.model.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    torch.save(weights, tmp_path / "w.pt")
    imported = import_clip(settings(tmp_path / "w.pt", "open_clip"), str(tmp_path / "small_custom_text.json"))
    assert torch.equal(imported.bundle.model.text.ln_final.weight, bundle.model.text.ln_final.weight)


def test_the_preprocessing_beside_an_open_clip_file_comes_along(tmp_path: Path) -> None:
    architecture = str(write_architecture("clip", tmp_path))
    chosen = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "interpolation": "bilinear", "resize_mode": "squash"}
    save_clip(tmp_path / "published", create_clip(architecture, chosen))
    imported = import_clip(settings(tmp_path / "published/open_clip_model.safetensors", "open_clip"), architecture)
    found = imported.bundle.model.visual.preprocess_cfg
    assert {key: found[key] for key in chosen} == {
        key: list(v) if isinstance(v, tuple) else v for key, v in chosen.items()
    }


def test_openais_archive_is_imported_without_running_it(tmp_path: Path) -> None:
    weights = scripted_clip(tmp_path / "clip.pt")
    architecture = tmp_path / "openai.json"
    architecture.write_text(
        '{"embed_dim": 16, "quick_gelu": true, '
        '"vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16}, '
        '"text_cfg": {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2}}'
    )
    bundle = import_clip(settings(tmp_path / "clip.pt", "openai"), str(architecture)).bundle
    found = bundle.model.state_dict()
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in weights.items())
    assert bundle.model.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert bundle.model.visual.preprocess_cfg["interpolation"] == "bicubic"
    torch.save({**weights, "input_resolution": torch.tensor(32)}, tmp_path / "plain.pt")
    plain = import_clip(settings(tmp_path / "plain.pt", "openai"), str(architecture)).bundle.model.state_dict()
    assert all(torch.equal(plain[name], found[name]) for name in found)


@pytest.mark.parametrize(("form", "prefix"), [("laclip", ""), ("laclip", "module."), ("ncu", "module.")])
def test_laclip_and_ncu_files_embed_as_the_plain_model(form: str, prefix: str, tmp_path: Path) -> None:
    weights = oracle.random_weights(**SMALL)
    prompt = torch.randn(4, 16, generator=torch.Generator().manual_seed(5))
    stored = weights | ({"prompt_ctx": prompt} if form == "ncu" else {})
    content: dict[str, object] = {"epoch": 3, "state_dict": {f"{prefix}{name}": t for name, t in stored.items()}}
    content |= {"name": "run", "optimizer": {}} if form == "ncu" else {"args": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "w.pt")
    imported = import_clip(settings(tmp_path / "w.pt", form), str(small_architecture(tmp_path)))
    save_clip(tmp_path / "checkpoint", imported.bundle, imported.extra_tensors)
    bundle = load_clip(tmp_path / "checkpoint", str(small_architecture(tmp_path)))
    model, images = bundle.model.eval(), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = bundle.tokenizer(["a red flag", "a dog"])
    with torch.inference_mode():
        image, text = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    expected = (
        oracle.embed_image(weights, images, heads=2, depth=2),
        oracle.embed_text(weights, tokens, heads=2, depth=2),
    )
    torch.testing.assert_close(image, F.normalize(expected[0], dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(text, F.normalize(expected[1], dim=-1), atol=1e-5, rtol=0)
    preprocess = model.visual.preprocess_cfg
    assert tuple(preprocess["mean"]) == IMAGENET_DEFAULT_MEAN
    assert tuple(preprocess["std"]) == IMAGENET_DEFAULT_STD
    assert preprocess["interpolation"] == "bilinear"
    assert imported.extra_tensors.keys() == ({PROMPT_FILE} if form == "ncu" else set())
    assert load_clip(tmp_path / "checkpoint").provenance == imported.bundle.provenance


def test_the_official_negative_text_is_the_official_codes(tmp_path: Path) -> None:
    weights = oracle.random_weights(**SMALL)
    prompt = torch.randn(4, 16, generator=torch.Generator().manual_seed(5))
    torch.save({"state_dict": weights | {"prompt_ctx": prompt}}, tmp_path / "w.pt")
    imported = import_clip(settings(tmp_path / "w.pt", "ncu"), str(small_architecture(tmp_path)))
    bundle, kept = imported.bundle, imported.extra_tensors[PROMPT_FILE]["prompt"]
    captions = ["a dog", "a red flag with a green tree on the house", "dog " * 30]
    tokenizer = tokenizer_for(bundle, "official")
    with torch.inference_mode():
        found = encode_negative_text(bundle.model.eval(), tokenizer(captions), kept, "official")
    tokens = tokenizer([f"{'x ' * 4}{caption}" for caption in captions])
    expected = oracle.embed_text(weights, tokens, heads=2, depth=2, prompt=prompt)
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_a_file_of_another_architecture_changes_nothing(tmp_path: Path) -> None:
    torch.save(make("clip", tmp_path).model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(PipelineError, match=r"w.pt does not fit the model: \d+ missing \(.*unexpected"):
        import_clip(settings(tmp_path / "w.pt", "open_clip"), str(write_architecture("timm", tmp_path)))


def test_a_file_that_is_not_the_one_meant_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"not even torch")
    found = hashlib.sha256(b"not even torch").hexdigest()
    with pytest.raises(PipelineError, match=f"expected {'0' * 64}, found {found}"):
        import_clip(settings(tmp_path / "w.pt", "open_clip", "0" * 64), "ViT-B-32")


@pytest.mark.parametrize(("form", "architecture"), [("openai", "ViT-B-32"), ("laclip", "ViT-B-16"), ("tag", "RN50")])
def test_quick_gelu_where_the_architecture_is_not_is_named(form: str, architecture: str, tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pt")
    weights = "openai" if form == "tag" else tmp_path / "w.pt"
    with pytest.raises(PipelineError, match=f"QuickGELU, and model.architecture = '{architecture}' computes GELU.*Use "
                       f"{architecture}-quickgelu"):  # fmt: skip
        import_clip(settings(weights, form), architecture)


def test_an_unknown_tag_lists_the_architectures_tags() -> None:
    with pytest.raises(PipelineError, match="'laion9b' is no open_clip tag of 'ViT-B-32'; its tags: openai, .*laion2b"):
        import_clip(settings("laion9b", "tag"), "ViT-B-32")
    with pytest.raises(PipelineError, match="its tags: none"):
        import_clip(settings("openai", "tag"), "config/models/smoke_rn.json")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there is no such file"):
        import_clip(settings(tmp_path / "absent.pt", "laclip"), "config/models/laclip_vitb16.json")
    with pytest.raises(PipelineError, match="import_reference.weights is null"):
        import_clip(settings(None, "laclip"), "config/models/laclip_vitb16.json")


def test_a_run_without_a_prompt_is_no_ncu_run(tmp_path: Path) -> None:
    torch.save({"state_dict": oracle.random_weights(**SMALL)}, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match="has no 'prompt_ctx', so it is no NCU run; use format: laclip"):
        import_clip(settings(tmp_path / "w.pt", "ncu"), str(small_architecture(tmp_path)))


def test_a_tag_is_fetched_by_open_clips_own_means_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make("clip", tmp_path)
    save_file(bundle.model.state_dict(), tmp_path / "w.safetensors")
    row = {"file": str(tmp_path / "w.safetensors"), "mean": (0.5, 0.5, 0.5), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small_clip", {"mine": row})
    wanted = settings("mine", "tag", hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest())
    found = import_clip(wanted, str(tmp_path / "small_clip.json")).bundle
    assert torch.equal(found.model.visual.proj, bundle.model.visual.proj)
    assert found.model.visual.preprocess_cfg["interpolation"] == "bilinear"
    assert found.provenance["source"] == "mine"
    with pytest.raises(PipelineError, match="import_reference.sha256"):
        import_clip(replace(wanted, sha256="0" * 64), str(tmp_path / "small_clip.json"))
