"""LaCLIP's image tower (Fan et al. 2023, arXiv 2305.20088) as a timm model, and its checkpoint's keys in open_clip's.

The tower is a vision transformer that normalises queries and keys per head, with exact GELU; the text tower is CLIP's
with QuickGELU. open_clip has one activation switch for both of its own towers but leaves a timm tower's alone, so
only a timm tower can express the pair. Importing this module makes the towers known to timm, which a folder of such a
model needs before open_clip can load it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

PREPROCESS = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "interpolation": "bilinear"}
PROMPT_KEY = "prompt_ctx"
_CFG = {"input_size": (3, 224, 224), "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head"}
default_cfgs = generate_default_cfgs(
    {"laclip_vit_base_patch16_224": {**_CFG, **PREPROCESS}, "laclip_vit_base_patch32_224": {**_CFG, **PREPROCESS}}
)


def qk_norm_tower(variant: str, *, pretrained: bool = False, **settings: Any) -> nn.Module:
    """A timm VisionTransformer with normalised queries and keys, and layer norms of epsilon 1e-6.

    `settings` are the transformer's: patch_size, embed_dim, depth, num_heads, img_size.
    """
    norm_layer = partial(nn.LayerNorm, eps=1e-6)
    settings = {"qk_norm": True, "norm_layer": norm_layer, **settings}
    tower: nn.Module = build_model_with_cfg(VisionTransformer, variant, pretrained, **settings)
    return tower


@register_model
def laclip_vit_base_patch16_224(pretrained: bool = False, **settings: Any) -> nn.Module:
    """LaCLIP's ViT-B/16 at 224 pixels."""
    base = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return qk_norm_tower("laclip_vit_base_patch16_224", pretrained=pretrained, **base, **settings)


@register_model
def laclip_vit_base_patch32_224(pretrained: bool = False, **settings: Any) -> nn.Module:
    """LaCLIP's ViT-B/32 at 224 pixels."""
    base = {"patch_size": 32, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return qk_norm_tower("laclip_vit_base_patch32_224", pretrained=pretrained, **base, **settings)


def open_clip_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """LaCLIP's keys in the names of an open_clip model with a timm tower; what is not known keeps its name.

    `visual.*` goes to `visual.trunk.*`, and `image_projection` (width, d) transposed to `visual.head.proj.weight`.
    """
    renamed = {}
    for name, tensor in weights.items():
        if name == "image_projection":
            renamed["visual.head.proj.weight"] = tensor.T
        elif name.startswith("visual."):
            renamed[f"visual.trunk.{name.removeprefix('visual.')}"] = tensor
        else:
            renamed[name] = tensor
    return renamed
