"""The table of what trains, by phase of the official code."""

from __future__ import annotations

import open_clip
import pytest
from torch import nn

from pipeline_steps.core.schema import FreezeConfig
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.freeze import apply_freeze, frozen_text_blocks, set_training_mode

NOTHING = {"image_tower": False, "image_projection": False, "text_tower": False, "token_embedding": False,
           "positional_embedding": False, "text_blocks": 0}  # fmt: skip
OFFICIAL_PHASE_1 = NOTHING | {"image_tower": True}
OFFICIAL_PHASE_2 = NOTHING | {"positional_embedding": True, "text_blocks": 5}


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 6},
    )


@pytest.mark.parametrize(
    ("settings", "name", "trains"),
    [
        (NOTHING, "visual.conv1.weight", True),
        (OFFICIAL_PHASE_1, "visual.conv1.weight", False),
        (OFFICIAL_PHASE_1, "visual.transformer.resblocks.1.ln_1.weight", False),
        (OFFICIAL_PHASE_1, "visual.proj", True),
        (OFFICIAL_PHASE_1 | {"image_projection": True}, "visual.proj", False),
        (OFFICIAL_PHASE_1, "token_embedding.weight", True),
        (OFFICIAL_PHASE_1, "transformer.resblocks.0.ln_1.weight", True),
        (OFFICIAL_PHASE_1, "logit_scale", True),
        (OFFICIAL_PHASE_2, "visual.conv1.weight", True),
        (OFFICIAL_PHASE_2, "positional_embedding", False),
        (OFFICIAL_PHASE_2, "token_embedding.weight", True),
        (OFFICIAL_PHASE_2 | {"token_embedding": True}, "token_embedding.weight", False),
        (OFFICIAL_PHASE_2, "transformer.resblocks.4.mlp.c_fc.weight", False),
        (OFFICIAL_PHASE_2, "transformer.resblocks.5.mlp.c_fc.weight", True),
        (OFFICIAL_PHASE_2, "ln_final.weight", True),
        (OFFICIAL_PHASE_2, "text_projection", True),
        (NOTHING | {"text_tower": True}, "ln_final.weight", False),
        (NOTHING | {"text_tower": True}, "visual.conv1.weight", True),
    ],
)
def test_what_trains(vit: nn.Module, settings: dict[str, bool | int], name: str, trains: bool) -> None:
    trained = apply_freeze(vit, FreezeConfig(**settings))  # type: ignore[arg-type]
    assert name in dict(vit.named_parameters())
    assert (name in trained) is trains
    assert dict(vit.named_parameters())[name].requires_grad is trains


def test_a_frozen_convolutional_tower_keeps_its_statistics_and_may_train_its_projection() -> None:
    model = create_clip("config/models/openclipart_rn.json").model
    freeze = FreezeConfig(**OFFICIAL_PHASE_1)  # type: ignore[arg-type]
    trained = apply_freeze(model, freeze)
    assert [name for name in trained if name.startswith("visual.")] == [
        "visual.attnpool.c_proj.weight",
        "visual.attnpool.c_proj.bias",
    ]
    set_training_mode(model, freeze)
    assert not any(module.training for module in model.visual.modules())
    assert model.transformer.training
    assert frozen_text_blocks(model) == 2
