"""Random batches of unit vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_steps.core.schema import MixtureConfig

MIXTURE = MixtureConfig(max_iterations=100, tolerance=1e-2, covariance_floor=5e-4)


def unit_vectors(rows: int, dimensions: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimensions, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def batch(rows: int, dimensions: int = 8, match: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Images, captions near their images, and negatives opposite to their captions."""
    image = unit_vectors(rows, dimensions, 1)
    text = F.normalize(match * image + (1 - match) * unit_vectors(rows, dimensions, 2), dim=1)
    negative = F.normalize(-0.5 * text + unit_vectors(rows, dimensions, 3), dim=1)
    return image, text, negative
