"""CLIP's contrastive loss, per pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss_N(sim_NN: Tensor, logit_scale: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of both directions' cross entropy for each pair, (N,).

    `sim_NN[i, j]` is the cosine of image i and caption j; `logit_scale` is s = 1/tau. Source: Radford et al. 2021,
    Fig. 3; NCU paper Eq. 1. `label_smoothing` in [0, 1) spreads that share of the target evenly over the batch.
    """
    logits_NN = logit_scale * sim_NN
    target_N = torch.arange(len(sim_NN), device=sim_NN.device)
    image_to_text = F.cross_entropy(logits_NN, target_N, reduction="none", label_smoothing=label_smoothing)
    text_to_image = F.cross_entropy(logits_NN.T, target_N, reduction="none", label_smoothing=label_smoothing)
    return (image_to_text + text_to_image) / 2
