"""Embeddings as a CLIP gives them, without a CLIP: what the benchmarks of the objective run on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_steps.methods.base import Embeddings

MATCHED_COSINE = {"structured": 0.6, "diffuse": 0.2}


def unit_batch(
    size: int, dimensions: int, *, kind: str, device: torch.device, exchanged: float = 0.2, seed: int = 0
) -> Embeddings:
    """N pairs of unit vectors (N, d), float32, that ask for gradients; logit scale 100.

    Captions are at the cosine `MATCHED_COSINE[kind]` to their images, except for the share `exchanged`, which is
    passed on among the pairs; the negatives are at cosine -0.5 to their captions, as after a phase 1 that worked.
    """
    generator = torch.Generator().manual_seed(seed)

    def unit_vectors() -> Tensor:
        return F.normalize(torch.randn(size, dimensions, generator=generator), dim=1)

    image, match = unit_vectors(), MATCHED_COSINE[kind]
    text = match * image + (1 - match**2) ** 0.5 * unit_vectors()
    wrong = int(exchanged * size)
    text[:wrong] = text[:wrong].roll(1, dims=0)
    text = F.normalize(text, dim=1)
    negative = F.normalize(-0.5 * text + 0.75**0.5 * unit_vectors(), dim=1)
    scale = torch.tensor(100.0, device=device, requires_grad=True)
    image, text, negative = (part.to(device).requires_grad_() for part in (image, text, negative))
    return Embeddings(image, text, scale, negative)
