"""The loss terms of NCU: Eqs. 3, 4, 5 and 11. N pairs, d dimensions, embeddings l2-normalised."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def separation_loss(text_ND: Tensor, negative_ND: Tensor, alpha: float, beta: float) -> Tensor:
    """Eq. 3: hinge that keeps <t_i, t_i^Neg> inside [alpha, beta], alpha < beta < 0; mean over pairs."""
    cosine_N = (text_ND * negative_ND).sum(dim=1)
    return ((alpha - cosine_N).clamp(min=0) + (cosine_N - beta).clamp(min=0)).mean()


def farthest_loss(text_ND: Tensor, negative_ND: Tensor) -> Tensor:
    """Ablation V2: 2 - ||t_i - t_i^Neg||, in [0, 2]; mean over pairs.

    The maximal L2 distance that the paper cites, CLIPN's text-semantic-opposite loss (Wang et al. 2023): unit vectors
    are farthest, at 2, when opposite.
    """
    distance_N: Tensor = torch.linalg.vector_norm(text_ND - negative_ND, dim=1)
    return (2 - distance_N).mean()


def relation_loss(text_ND: Tensor, negative_ND: Tensor, variant: Literal["paper", "official"]) -> Tensor:
    """Eq. 4: the negatives keep the captions' geometry; summed over j, mean over i.

    `paper`: (<t_i, t_j^Neg> - <t_j, t_i^Neg>)^2 as printed. `official`: (<t_i, t_j> - <t_i^Neg, t_j^Neg>)^2 as the
    code at cd338a5 computes it.
    """
    if variant == "paper":
        cross_NN = text_ND @ negative_ND.T
        difference_NN = cross_NN - cross_NN.T
    else:
        difference_NN = text_ND @ text_ND.T - negative_ND @ negative_ND.T
    return difference_NN.square().sum() / len(text_ND)


def matching_loss(
    image_ND: Tensor, text_ND: Tensor, negative_ND: Tensor, logit_scale: Tensor, bias: float = 0.0
) -> Tensor:
    """Eq. 5, with the leading minus that print lost: pairwise sigmoid loss, sum over j, mean over i.

    Caption i matches image i only; its negative matches every image but image i. `bias` is added to every logit
    s <t_i, v_j>: none in the paper and its code; SigLIP's starts at -10.
    """
    sign_NN = 2 * torch.eye(len(image_ND), device=image_ND.device, dtype=image_ND.dtype) - 1
    positive = F.logsigmoid(sign_NN * logit_scale * (text_ND @ image_ND.T) + bias * sign_NN)
    opposite = F.logsigmoid(-sign_NN * logit_scale * (negative_ND @ image_ND.T) - bias * sign_NN)
    return -(positive + opposite).sum() / len(image_ND)


def realignment_loss(
    logits_NM: Tensor, target_NM: Tensor, target_MN: Tensor, reduction: Literal["sum", "mean"]
) -> Tensor:
    """Eq. 11: KL(target || softmax of the logits) over rows plus over columns, each a mean over its distributions.

    `logits_NM` (N, N+1) are s <v_i, t_j>, last column s <v_i, t_i^Neg>; `target_NM` and `target_MN` (N+1, N) are
    distributions along their rows (an all-zero row counts nothing); other shapes (N, M) and (M, N) do as well.
    `sum` is the paper's, `mean` the official half.
    """
    image_to_text = F.kl_div(logits_NM.log_softmax(dim=1), target_NM, reduction="sum") / len(target_NM)
    text_to_image = F.kl_div(logits_NM.T.log_softmax(dim=1), target_MN, reduction="sum") / len(target_MN)
    total = image_to_text + text_to_image
    return total if reduction == "sum" else total / 2
