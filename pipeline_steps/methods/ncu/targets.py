"""Eq. 10: the transport plan mixed with the identity-like matrix, as distributions for both directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def identity_like(forget_N: Tensor) -> Tensor:
    """I (N, N+1): 1 on the diagonal of retained rows, 1 in the last column of forget rows (below Eq. 10)."""
    size = len(forget_N)
    matrix = torch.zeros(size, size + 1, device=forget_N.device)
    matrix[:, :size].fill_diagonal_(1.0)
    matrix[forget_N] = 0.0
    matrix[forget_N, size] = 1.0
    return matrix


def alignment_targets(
    plan_NM: Tensor, forget_N: Tensor, gamma: float, order: Literal["paper", "official"]
) -> tuple[Tensor, Tensor]:
    """Targets of Eq. 11: (N, N+1) for image-to-text and (N+1, N) for text-to-image, every row a distribution.

    `paper` mixes T = gamma * plan + (1 - gamma) * I and then normalises; at N = 2048 the plan's rows weigh 1/N, so
    that it all but disappears. `official` normalises the plan's rows (columns) first and then mixes. Unlike the
    official code, the text-to-image rows are normalised after mixing: there the last one sums to about
    (1 - gamma) |FG| and those of forgotten captions to gamma. An empty last column stays all zero.
    """
    identity_NM = identity_like(forget_N).to(plan_NM.dtype)
    if order == "paper":
        mixed_NM = gamma * plan_NM + (1 - gamma) * identity_NM
        return _normalize(mixed_NM), _normalize(mixed_NM.T)
    image_to_text = gamma * _normalize(plan_NM) + (1 - gamma) * identity_NM
    text_to_image = gamma * _normalize(plan_NM.T) + (1 - gamma) * identity_NM.T
    return _normalize(image_to_text), _normalize(text_to_image)


def _normalize(matrix: Tensor) -> Tensor:
    total = matrix.sum(dim=1, keepdim=True)
    return matrix / torch.where(total > 0, total, torch.ones_like(total))
