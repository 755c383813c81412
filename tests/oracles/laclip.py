"""LaCLIP's model written out plainly: every product and norm by hand, over a dict of tensors in its own key names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def random_weights(
    *, width: int, depth: int, patch: int, image: int, text_width: int, text_depth: int, context: int, vocabulary: int,
    dim: int, heads: int, seed: int = 0,
) -> Weights:  # fmt: skip
    """A state dict of LaCLIP's keys and shapes, with every tensor random."""
    generator = torch.Generator().manual_seed(seed)
    head = width // heads
    shapes: dict[str, tuple[int, ...]] = {
        "image_projection": (width, dim), "text_projection": (text_width, dim), "logit_scale": (),
        "positional_embedding": (context, text_width), "token_embedding.weight": (vocabulary, text_width),
        "ln_final.weight": (text_width,), "ln_final.bias": (text_width,),
        "visual.cls_token": (1, 1, width), "visual.pos_embed": (1, (image // patch) ** 2 + 1, width),
        "visual.patch_embed.proj.weight": (width, 3, patch, patch), "visual.patch_embed.proj.bias": (width,),
        "visual.norm.weight": (width,), "visual.norm.bias": (width,),
    }  # fmt: skip
    for block in range(depth):
        at = f"visual.blocks.{block}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{at}.{norm}.weight": (width,), f"{at}.{norm}.bias": (width,)}
        for norm in ("q_norm", "k_norm"):
            shapes |= {f"{at}.attn.{norm}.weight": (head,), f"{at}.attn.{norm}.bias": (head,)}
        shapes |= {f"{at}.attn.qkv.weight": (3 * width, width), f"{at}.attn.qkv.bias": (3 * width,)}
        shapes |= {f"{at}.attn.proj.weight": (width, width), f"{at}.attn.proj.bias": (width,)}
        shapes |= {f"{at}.mlp.fc1.weight": (4 * width, width), f"{at}.mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{at}.mlp.fc2.weight": (width, 4 * width), f"{at}.mlp.fc2.bias": (width,)}
    for block in range(text_depth):
        at, wide = f"transformer.resblocks.{block}", text_width
        shapes |= {f"{at}.attn.in_proj_weight": (3 * wide, wide), f"{at}.attn.in_proj_bias": (3 * wide,)}
        shapes |= {f"{at}.attn.out_proj.weight": (wide, wide), f"{at}.attn.out_proj.bias": (wide,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{at}.{norm}.weight": (wide,), f"{at}.{norm}.bias": (wide,)}
        shapes |= {f"{at}.mlp.c_fc.weight": (4 * wide, wide), f"{at}.mlp.c_fc.bias": (4 * wide,)}
        shapes |= {f"{at}.mlp.c_proj.weight": (wide, 4 * wide), f"{at}.mlp.c_proj.bias": (wide,)}
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def embed_image(weights: Weights, images: Tensor, *, heads: int, depth: int) -> Tensor:
    """(N, d): patches and class token through pre-norm blocks, queries and keys normalised, exact GELU; class token."""
    kernel = weights["visual.patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    rows = []
    for top in range(0, images.shape[2], patch):
        for left in range(0, images.shape[3], patch):
            piece = images[:, :, top : top + patch, left : left + patch].flatten(1)
            rows.append(piece @ kernel.flatten(1).T + weights["visual.patch_embed.proj.bias"])
    x = torch.stack(rows, dim=1)
    x = torch.cat([weights["visual.cls_token"].expand(len(x), -1, -1), x], dim=1) + weights["visual.pos_embed"]
    for block in range(depth):
        at = f"visual.blocks.{block}"
        h = _norm(x, weights, f"{at}.norm1", 1e-6)
        qkv = h @ weights[f"{at}.attn.qkv.weight"].T + weights[f"{at}.attn.qkv.bias"]
        q, k, v = (_heads(part, heads) for part in qkv.chunk(3, dim=-1))
        q, k = _norm(q, weights, f"{at}.attn.q_norm", 1e-6), _norm(k, weights, f"{at}.attn.k_norm", 1e-6)
        mixed = _merge(torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v)
        x = x + mixed @ weights[f"{at}.attn.proj.weight"].T + weights[f"{at}.attn.proj.bias"]
        h = _norm(x, weights, f"{at}.norm2", 1e-6)
        h = h @ weights[f"{at}.mlp.fc1.weight"].T + weights[f"{at}.mlp.fc1.bias"]
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + h @ weights[f"{at}.mlp.fc2.weight"].T + weights[f"{at}.mlp.fc2.bias"]
    return _norm(x, weights, "visual.norm", 1e-6)[:, 0] @ weights["image_projection"]


def embed_text(weights: Weights, tokens: Tensor, *, heads: int, depth: int, prompt: Tensor | None = None) -> Tensor:
    """(N, d): causal blocks with x sigmoid(1.702 x), taken at the largest token id.

    `prompt` (m, width) takes the places 1 to m of `tokens`, as in the official NCU code.
    """
    x = weights["token_embedding.weight"][tokens]
    if prompt is not None:
        x = x.clone()
        x[:, 1 : 1 + len(prompt)] = prompt
    x = x + weights["positional_embedding"]
    length = tokens.shape[1]
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    for block in range(depth):
        at = f"transformer.resblocks.{block}"
        h = _norm(x, weights, f"{at}.ln_1", 1e-5)
        qkv = h @ weights[f"{at}.attn.in_proj_weight"].T + weights[f"{at}.attn.in_proj_bias"]
        q, k, v = (_heads(part, heads) for part in qkv.chunk(3, dim=-1))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
        mixed = _merge(torch.softmax(scores, dim=-1) @ v)
        x = x + mixed @ weights[f"{at}.attn.out_proj.weight"].T + weights[f"{at}.attn.out_proj.bias"]
        h = _norm(x, weights, f"{at}.ln_2", 1e-5)
        h = h @ weights[f"{at}.mlp.c_fc.weight"].T + weights[f"{at}.mlp.c_fc.bias"]
        h = h * torch.sigmoid(1.702 * h)
        x = x + h @ weights[f"{at}.mlp.c_proj.weight"].T + weights[f"{at}.mlp.c_proj.bias"]
    x = _norm(x, weights, "ln_final", 1e-5)
    return x[torch.arange(len(x)), tokens.argmax(dim=1)] @ weights["text_projection"]


def _norm(x: Tensor, weights: Weights, name: str, epsilon: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + epsilon)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
