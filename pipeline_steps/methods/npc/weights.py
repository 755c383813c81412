"""What a step on a pair does to clean pairs like it, and the loss that follows.

Source: Zhang, Li, Ye, "Negative Pre-aware for Noisy Cross-Modal Matching" (AAAI 2024, arXiv 2312.05777) and its code,
ZhangXu0963/NPC at 823d781.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline_steps.core.schema import TrainNpcConfig
from pipeline_steps.methods.base import LossOutput


class BankLosses(NamedTuple):
    """The contrastive loss of each pair's two bank entries, (N,) each: that of its nearest clean image, and that of its
    nearest clean caption; each contrasted with the entries of the other pairs of the batch.
    """

    image_N: Tensor
    text_N: Tensor


@torch.no_grad()
def impact_ratios(before: BankLosses, after: BankLosses) -> Tensor:
    """How much a step on the batch helps clean pairs: the mean of both banks' loss before over that after, (N,) > 0.

    Above 1 the step lowers the loss of what is clean and like the pair, below 1 it raises it. Where both losses are 0
    nothing changed, and the ratio is 1.
    """
    ratios = [
        torch.where((old_N == 0) & (new_N == 0), torch.ones_like(old_N), old_N / new_N)
        for old_N, new_N in zip(before, after, strict=True)
    ]
    return (ratios[0] + ratios[1]) / 2


def pair_weights(ratio_N: Tensor) -> Tensor:
    """tanh of a ratio below 1, else 1: (N,) in (0, 0.76) or 1."""
    return torch.where(ratio_N < 1, torch.tanh(ratio_N), torch.ones_like(ratio_N))


def npc_loss(loss_N: Tensor, bank: BankLosses, ratio_N: Tensor, settings: TrainNpcConfig) -> LossOutput:
    """The mean of the pairs' losses times their weights, and `bank_weight` times the mean of both banks' losses summed.

    `loss_N` are the contrastive losses of the batch. `weights: batch` has the mean weight times the mean loss, as the
    official code. The pairs with a ratio below 1 are what NPC takes for noisy: `forget_N`.
    """
    weight_N = pair_weights(ratio_N)
    weighted = (weight_N * loss_N).mean() if settings.weights == "per_sample" else weight_N.mean() * loss_N.mean()
    of_bank = (bank.image_N + bank.text_N).mean()
    terms: dict[str, Tensor | float] = {
        "batch": loss_N.detach().mean(), "bank": of_bank.detach(), "npc/weight": weight_N.mean(),
        "npc/ratio": ratio_N.mean(),
    }  # fmt: skip
    return LossOutput(weighted + settings.bank_weight * of_bank, terms, ratio_N < 1, ratio_N / (1 + ratio_N))
