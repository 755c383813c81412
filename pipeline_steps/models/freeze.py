"""What trains in a phase, as a table that can be logged and tested."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline_steps.core.schema import FreezeConfig
from pipeline_steps.models.prompt import text_tower

_IMAGE_PROJECTIONS = ("proj", "attnpool.c_proj.", "head.")


def apply_freeze(clip: nn.Module, freeze: FreezeConfig) -> list[str]:
    """Set `requires_grad` of every parameter of an open_clip model; return the names of those that train.

    Official code (hhc1997/NCU at cd338a5): phase 1 freezes the image tower but not its projection; phase 2 freezes
    positional embedding and text blocks 0 to 4.
    """
    for name, parameter in clip.named_parameters():
        parameter.requires_grad = _trains(name, freeze)
    return [name for name, parameter in clip.named_parameters() if parameter.requires_grad]


def set_training_mode(clip: Any, freeze: FreezeConfig) -> None:
    """Training mode, except that a frozen image tower keeps its batch-norm statistics."""
    clip.train()
    if freeze.image_tower:
        clip.visual.eval()


def frozen_text_blocks(clip: nn.Module) -> int:
    """Number of transformer blocks in the text tower, the upper bound of `freeze.text_blocks`."""
    return len(text_tower(clip).transformer.resblocks)


def _trains(name: str, freeze: FreezeConfig) -> bool:
    if name.startswith("visual."):
        projection = name.removeprefix("visual.").startswith(_IMAGE_PROJECTIONS)
        return not (freeze.image_projection if projection else freeze.image_tower)
    if name in ("logit_scale", "logit_bias"):
        return True
    name = name.removeprefix("text.")
    if freeze.text_tower:
        return False
    if name.startswith("token_embedding"):
        return not freeze.token_embedding
    if name.startswith("positional_embedding"):
        return not freeze.positional_embedding
    if name.startswith("transformer.resblocks."):
        return int(name.split(".")[2]) >= freeze.text_blocks
    return True
