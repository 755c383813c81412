"""The weights that a CLIP in half precision keeps in it."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pipeline_steps.models.open_clip_parts import open_clip


@torch.no_grad()
def round_to_half(clip: Any) -> None:
    """Round to float16, in place, the weights that OpenAI's and open_clip's conversion to it would change.

    An update smaller than half of a weight's last place is lost, as it is where weights are stored in float16.
    """
    if not hasattr(clip, "half_parameters"):
        converted = copy.deepcopy(clip).to("meta")
        open_clip.convert_weights_to_lp(converted, torch.float16)
        named = converted.named_parameters()
        clip.half_parameters = frozenset(name for name, weight in named if weight.dtype == torch.float16)
    for name, parameter in clip.named_parameters():
        if name in clip.half_parameters:
            parameter.copy_(parameter.half())
