"""Eq. 10: the transport plan mixed with the identity-like matrix, as targets for both directions."""

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
    plan_NM: Tensor,
    forget_N: Tensor,
    gamma: float,
    order: Literal["paper", "official"],
    *,
    plan_MN: Tensor | None = None,
    text_to_image: Literal["distribution", "official"] = "distribution",
) -> tuple[Tensor, Tensor]:
    """Targets of Eq. 11: (N, N+1) for image-to-text and (N+1, N) for text-to-image, every row a distribution.

    `paper` mixes T = gamma * plan + (1 - gamma) * I and then normalises; at N = 2048 the plan's rows weigh 1/N, so
    that it all but disappears. `official` normalises the plan's rows (columns) first and then mixes. `plan_MN` is the
    text-to-image plan where that direction was solved on its own; without it the one plan serves both.

    `text_to_image: official` leaves the text-to-image rows as mixed, not normalised: in the official order the last
    one sums to gamma + (1 - gamma) |FG| (61.9 at P = 0.1, N = 2048) and those of forgotten captions to gamma. An
    empty last column stays all zero.
    """
    identity_NM = identity_like(forget_N).to(plan_NM.dtype)
    plan_MN = plan_NM.T if plan_MN is None else plan_MN
    if order == "official":
        plan_NM, plan_MN = _normalize(plan_NM), _normalize(plan_MN)
    image_to_text = gamma * plan_NM + (1 - gamma) * identity_NM
    mixed_MN = gamma * plan_MN + (1 - gamma) * identity_NM.T
    return _normalize(image_to_text), mixed_MN if text_to_image == "official" else _normalize(mixed_MN)


def one_hot_when_retained(plan_NM: Tensor, plan_MN: Tensor, forget_N: Tensor) -> tuple[Tensor, Tensor]:
    """Both plans with the rows of retained images (captions) moved whole to their own caption (image).

    Ablation V4, false positives only: the rows of forget pairs, and that of t^Neg, stay soft. The paper says no more
    than "w only False Positives Unlearning"; this is our reading. Row sums are kept.
    """
    identity_NM = identity_like(forget_N).to(plan_NM.dtype)
    soft_M = torch.cat([forget_N, forget_N.new_ones(1)])
    image_to_text = torch.where(forget_N[:, None], plan_NM, identity_NM * plan_NM.sum(dim=1, keepdim=True))
    text_to_image = torch.where(soft_M[:, None], plan_MN, identity_NM.T * plan_MN.sum(dim=1, keepdim=True))
    return image_to_text, text_to_image


def mass_on_negative(plan_NM: Tensor, forget_N: Tensor) -> Tensor:
    """Mean share of a forget row's mass on its own t^Neg, the last column; 0 without a forget set. A scalar tensor.

    With the column marginal 1/(N+1) it is about 1/|FG|: that column has the room of one caption for all of them.
    """
    share_N = plan_NM[:, -1] / plan_NM.sum(dim=1)
    return (share_N * forget_N).sum() / forget_N.sum().clamp(min=1)


def _normalize(matrix: Tensor) -> Tensor:
    total = matrix.sum(dim=1, keepdim=True)
    return matrix / torch.where(total > 0, total, torch.ones_like(total))
