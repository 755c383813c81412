"""The weights that a CLIP in half precision keeps in it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pipeline_steps.models.open_clip_parts import open_clip


def half_weights(clip: Any) -> list[nn.Parameter]:
    """The weights that OpenAI's and open_clip's conversion to float16 would change."""
    if not hasattr(clip, "half_names"):
        converted = copy.deepcopy(clip).to("meta")
        open_clip.convert_weights_to_lp(converted, torch.float16)
        named = converted.named_parameters()
        clip.half_names = frozenset(name for name, weight in named if weight.dtype == torch.float16)
    return [parameter for name, parameter in clip.named_parameters() if name in clip.half_names]


@torch.no_grad()
def round_to_half(clip: Any) -> None:
    """Round these weights to float16, in place."""
    for parameter in half_weights(clip):
        parameter.copy_(parameter.half())
