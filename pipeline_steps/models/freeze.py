"""What trains in a phase, as a table that can be logged and tested."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import FreezeConfig
from pipeline_steps.models.towers import (
    image_projection,
    names_of,
    positional_embedding,
    require_token_embedding,
    text_blocks,
    text_layout,
    text_tower,
)

_ALWAYS = ("logit_scale", "logit_bias")


def apply_freeze(clip: Any, freeze: FreezeConfig) -> list[str]:
    """Set `requires_grad` of every parameter of an open_clip model; return the names of those that train.

    What the contrastive embeddings do not use never trains, such as CoCa's decoder, nor does what the architecture
    fixes, such as sine positions. Raises PipelineError when a key asks for a part that this model does not have.
    Official code (hhc1997/NCU at cd338a5): phase 1 freezes the image tower but not its projection; phase 2 freezes
    positional embedding and text blocks 0 to 4.
    """
    trained = _contrastive_parameters(clip) - _frozen(clip, freeze)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad = name in trained
    return [name for name, _ in clip.named_parameters() if name in trained]


def set_training_mode(clip: Any, freeze: FreezeConfig) -> None:
    """Training mode, except that a frozen image tower keeps its batch-norm statistics."""
    clip.train()
    if freeze.image_tower:
        clip.visual.eval()


def frozen_text_blocks(clip: nn.Module) -> int:
    """Number of transformer blocks in the text tower, the upper bound of `freeze.text_blocks`; 0 where not known."""
    return len(text_blocks(clip) or [])


def _frozen(clip: Any, freeze: FreezeConfig) -> set[str]:
    names = {name for name, _ in clip.named_parameters()}
    visual, projection = {name for name in names if name.startswith("visual.")}, image_projection(clip)
    frozen = visual - projection if freeze.image_tower else set()
    if freeze.image_projection:
        if not projection and not freeze.image_tower:
            raise _absent(clip, "image_projection", "image projection", "false")
        frozen |= projection
    if freeze.text_tower:
        return frozen | {name for name in names - visual if name not in _ALWAYS}
    if freeze.token_embedding:
        frozen |= names_of(clip, require_token_embedding(clip).parameters())
    if freeze.positional_embedding:
        positions = positional_embedding(clip)
        if not positions:
            raise _absent(clip, "positional_embedding", "positional embedding that is learned", "false")
        frozen |= positions
    if freeze.text_blocks:
        blocks = text_blocks(clip)
        if blocks is None or len(blocks) < freeze.text_blocks:
            raise _absent(clip, "text_blocks", f"{freeze.text_blocks} text blocks", f"0 to {frozen_text_blocks(clip)}")
        frozen |= names_of(clip, blocks[: freeze.text_blocks].parameters())
    return frozen


def _contrastive_parameters(clip: Any) -> set[str]:
    """The names of what can train at all, found once per model by a gradient through both embeddings."""
    known: set[str] | None = getattr(clip, "contrastive_parameters", None)
    if known is None:
        known = {name for name, parameter in clip.named_parameters() if parameter.requires_grad}
        known &= _used_by_embeddings(clip) | set(_ALWAYS)
        clip.contrastive_parameters = known
    return known


def _used_by_embeddings(clip: Any) -> set[str]:
    named = {name: parameter for name, parameter in clip.named_parameters() if parameter.requires_grad}
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    training = {name: module.training for name, module in clip.named_modules()}
    device = clip.logit_scale.device
    clip.eval()
    with torch.random.fork_rng(), torch.enable_grad():
        image = clip.encode_image(torch.ones(2, 3, height, width, device=device), normalize=True)
        ordinary, length = require_token_embedding(clip).num_embeddings // 2, text_layout(clip).context_length
        text = clip.encode_text(torch.full((2, length), ordinary, device=device), normalize=True)
        gradients = torch.autograd.grad((image.sum() + text.sum()), list(named.values()), allow_unused=True)
    for name, module in clip.named_modules():
        module.training = training[name]
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def _absent(clip: nn.Module, key: str, what: str, allowed: str) -> PipelineError:
    towers = f"{type(clip).__name__} with {type(getattr(clip, 'visual', None)).__name__}"
    return PipelineError(
        f"training.freeze.{key} asks for a part that this model ({towers} and {type(text_tower(clip)).__name__}) does "
        f"not have: no {what}; allowed: {allowed}"
    )
