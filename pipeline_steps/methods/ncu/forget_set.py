"""Eq. 2: how clean a pair looks, and the share of the batch taken for false positives."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def clean_confidence(sim_NN: Tensor, logit_scale: Tensor, direction: Literal["symmetric", "i2t"]) -> Tensor:
    """Matched softmax probability of each pair, (N,) in [0, 1].

    `sim_NN[i, j]` is the cosine of image i and caption j. `symmetric` is Eq. 2, the mean of both directions;
    `i2t` is what the official code does. Computed through log-softmax: the official quotient of exponentials
    overflows float32 at s = 100 above a cosine of 0.887.
    """
    logits_NN = logit_scale * sim_NN.float()
    image_to_text_N = logits_NN.log_softmax(dim=1).diagonal().exp()
    if direction == "i2t":
        return image_to_text_N
    return (image_to_text_N + logits_NN.log_softmax(dim=0).diagonal().exp()) / 2


def forget_mask(confidence_N: Tensor, fraction: float) -> Tensor:
    """True for the floor(fraction * N) pairs of lowest confidence (N,); equal confidences by position."""
    count = math.floor(fraction * len(confidence_N) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    mask_N = torch.zeros_like(confidence_N, dtype=torch.bool)
    mask_N[confidence_N.argsort(stable=True)[:count]] = True
    return mask_N
