"""What no test of prompt or freezing asks: the answers for towers that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
from torch import nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.tokens import TextLayout
from pipeline_steps.models.towers import (
    image_projection,
    pad_token,
    require_token_embedding,
    text_blocks,
    text_layout,
    text_pooling,
    token_embedding,
)
from tests.unit.models.architectures import CONTEXT, KINDS, make


@pytest.mark.parametrize("kind", KINDS)
def test_a_towers_structure_tells_what_its_tokenizer_would(kind: str, tmp_path: Path) -> None:
    model = make(kind, tmp_path).model
    asked = text_layout(model)
    del model.text_layout
    judged = text_layout(model)
    assert judged.start_tokens == asked.start_tokens
    assert judged.context_length == (77 if kind in ("hugging_face", "mt5") else CONTEXT)


@pytest.mark.parametrize(
    ("kind", "pooling", "pad"),
    [("clip", "argmax", 0), ("coca", "last", 0), ("siglip", "last", 0), ("hugging_face", "MeanPooler", 1),
     ("mt5", "MeanPooler", -1)],
)  # fmt: skip
def test_pooling_and_padding(kind: str, pooling: str, pad: int, tmp_path: Path) -> None:
    model = make(kind, tmp_path).model
    assert (text_pooling(model), pad_token(model)) == (pooling, pad)


def test_a_model_of_unknown_parts_has_none() -> None:
    class Strange(nn.Module):
        visual = nn.Identity()

    clip = Strange()
    assert token_embedding(clip) is None
    assert text_blocks(clip) is None
    assert image_projection(clip) == set()
    with pytest.raises(PipelineError, match="Strange has no token embedding"):
        require_token_embedding(clip)


def test_a_bidirectional_tower_that_pools_elsewhere_has_a_start_token() -> None:
    clip = open_clip.CustomTextCLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={
            "context_length": 12,
            "vocab_size": 100,
            "width": 16,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
        },
    )
    assert text_layout(clip) == TextLayout(1, 12)
