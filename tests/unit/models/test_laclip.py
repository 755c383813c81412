from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import generate_default_cfgs, register_model
from torch import nn

from pipeline_steps.models import laclip
from pipeline_steps.models.clip import create_clip
from tests.oracles import laclip as oracle
from tests.unit.paths import REPOSITORY

SMALL = {"width": 32, "depth": 2, "patch": 8, "image": 16, "text_width": 16, "text_depth": 2, "context": 12,
         "vocabulary": 49408, "dim": 24, "heads": 2}  # fmt: skip
default_cfgs = generate_default_cfgs({"laclip_vit_small_for_tests": {"input_size": (3, 16, 16), "pool_size": None}})


@register_model
def laclip_vit_small_for_tests(pretrained: bool = False, **settings: Any) -> nn.Module:
    small = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 16}
    return laclip.qk_norm_tower("laclip_vit_small_for_tests", pretrained=pretrained, **small, **settings)


def small_architecture(folder: Path, **changes: object) -> Path:
    """The JSON file of the small LaCLIP that `oracle.random_weights(**SMALL)` fits."""
    path = folder / "small_laclip.json"
    vision = {"image_size": 16, "timm_model_name": "laclip_vit_small_for_tests", "timm_pool": "token"}
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    made = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": {**vision, "timm_proj": "linear"}, "text_cfg": text}
    path.write_text(json.dumps(made | changes))
    return path


@pytest.mark.parametrize("patch", [16, 32])
def test_the_towers_have_laclips_keys_and_shapes(patch: int) -> None:
    config = json.loads((REPOSITORY / f"config/models/laclip_vitb{patch}.json").read_text())
    with torch.device("meta"):
        tower = timm.create_model(config["vision_cfg"]["timm_model_name"], num_classes=0, global_pool="token")
    shapes = {f"visual.{name}": tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    base = {"width": 768, "depth": 12, "patch": patch, "image": 224, "heads": 12}
    text = {"text_width": 8, "text_depth": 0, "context": 2, "vocabulary": 2, "dim": 512}
    wanted = {name: tuple(tensor.shape) for name, tensor in oracle.random_weights(**base, **text).items()}
    assert shapes == {name: shape for name, shape in wanted.items() if name.startswith("visual.")}
    assert (config["embed_dim"], config["quick_gelu"]) == (512, True)
    assert tower.blocks[0].attn.q_norm.eps == tower.norm.eps == 1e-6
    assert isinstance(tower.blocks[0].mlp.act, nn.GELU)


def test_a_model_with_laclips_weights_embeds_as_the_plain_one(tmp_path: Path) -> None:
    weights = oracle.random_weights(**SMALL)
    model = create_clip(str(small_architecture(tmp_path))).model.eval()
    model.load_state_dict(laclip.open_clip_weights(weights))
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[49406, 5, 6, 49407, 0, 0, 0, 0, 0, 0, 0, 0], [49406, *range(9, 19), 49407]])
    with torch.inference_mode():
        image, text = model.encode_image(images), model.encode_text(tokens)
    expected_image = oracle.embed_image(weights, images, heads=2, depth=2)
    expected_text = oracle.embed_text(weights, tokens, heads=2, depth=2)
    torch.testing.assert_close(image / expected_image.norm(), expected_image / expected_image.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(text / expected_text.norm(), expected_text / expected_text.norm(), atol=1e-5, rtol=0)


def test_names_that_are_not_laclips_stay_to_be_listed() -> None:
    kept = torch.zeros(1)
    assert laclip.open_clip_weights({"strange": kept}) == {"strange": kept}
