"""Eq. 2: how clean a pair looks, and the share of the batch taken for false positives."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline_steps.core.schema import ForgetSetConfig, MixtureConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.contrastive import contrastive_loss_N
from pipeline_steps.methods.npc.mixture import clean_probability

_TIE = 1e-4  # weight of the loss itself beside the mixture's probability


class ForgetSet(NamedTuple):
    """The pairs taken for false positives, (N,) bool, and the clean confidence of every pair, (N,)."""

    forget_N: Tensor
    confidence_N: Tensor


@torch.no_grad()
def pick_forget_set(sim_NN: Tensor, embeddings: Embeddings, settings: ForgetSetConfig) -> ForgetSet:
    """The forget set of one batch with cosines `sim_NN` (images by captions), as every objective that has one picks it.

    `selection: random` is a control: as many pairs, drawn by `embeddings.step_seed` alone. All others take the pairs
    of lowest score, which stands for the confidence. Carries no gradient.
    """
    scale, seed = embeddings.logit_scale, embeddings.step_seed
    if settings.selection == "small_loss":
        score_N = small_loss_score(contrastive_loss_N(sim_NN, scale), settings.mixture, seed)
    elif settings.selection == "consistency":
        score_N = pair_consistency(sim_NN, scale, settings.direction)
    else:
        score_N = clean_confidence(sim_NN, scale, settings.direction, settings.softmax)
    if settings.selection == "random":
        return ForgetSet(random_mask(len(sim_NN), settings.fraction, seed, sim_NN.device), score_N)
    return ForgetSet(forget_mask(score_N, settings.fraction), score_N)


def small_loss_score(loss_N: Tensor, settings: MixtureConfig, seed: int) -> Tensor:
    """The probability of the component of lower mean in a mixture of two over the losses (N,), as NPC divides pairs.

    Equal probabilities are told apart by the loss, by no more than float32 can hold. Losses that are all the same, or
    not finite, have no mixture: each is then 1 / (1 + loss).
    """
    losses = loss_N.detach().double().cpu()
    by_loss_N = 1 / (1 + losses)
    if not bool((losses != losses[0]).any()) or not bool(torch.isfinite(losses).all()):
        return by_loss_N.to(loss_N.device, torch.float32)
    probability_N = torch.from_numpy(clean_probability(losses.numpy(), settings, seed % 2**32))
    return (probability_N * (1 - _TIE) + by_loss_N * _TIE).to(loss_N.device, torch.float32)


def pair_consistency(sim_NN: Tensor, logit_scale: Tensor, direction: Literal["symmetric", "i2t"]) -> Tensor:
    """p(own caption) / max p(caption) of each image, (N,) in (0, 1], as CLIPCleaner compares a label with the best.

    `symmetric` is the mean of that and of the same for each caption over the images.
    """
    logits_NN = logit_scale * sim_NN.float()
    own_N = logits_NN.diagonal()
    to_text_N = (own_N - logits_NN.amax(dim=1)).exp()
    return to_text_N if direction == "i2t" else (to_text_N + (own_N - logits_NN.amax(dim=0)).exp()) / 2


def clean_confidence(
    sim_NN: Tensor,
    logit_scale: Tensor,
    direction: Literal["symmetric", "i2t"],
    softmax: Literal["stable", "official"] = "stable",
) -> Tensor:
    """Matched softmax probability of each pair, (N,) in [0, 1].

    `sim_NN[i, j]` is the cosine of image i and caption j. `symmetric` is Eq. 2, the mean of both directions;
    `i2t` is what the official code does. `stable` goes through log-softmax; `official` is that code's quotient of
    exponentials in float32, which overflows at s = 100 above a cosine of 0.887: a pair is then NaN, or 0 where only
    another caption of its row overflows.
    """
    logits_NN = logit_scale * sim_NN.float()
    matched = _matched_quotient if softmax == "official" else _matched_softmax
    if direction == "i2t":
        return matched(logits_NN, 1)
    return (matched(logits_NN, 1) + matched(logits_NN, 0)) / 2


def forget_mask(confidence_N: Tensor, fraction: float) -> Tensor:
    """True for the floor(fraction * N) pairs of lowest confidence (N,); equal confidences by position.

    NaN counts as the highest confidence, as in the official code's `torch.topk(..., largest=False)`.
    """
    mask_N = torch.zeros_like(confidence_N, dtype=torch.bool)
    mask_N[confidence_N.argsort(stable=True)[: _count(len(confidence_N), fraction)]] = True
    return mask_N


def random_mask(size: int, fraction: float, seed: int, device: torch.device) -> Tensor:
    """True for floor(fraction * N) pairs drawn by `seed` on the CPU, so that every device and process agrees."""
    order_N = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    mask_N = torch.zeros(size, dtype=torch.bool)
    mask_N[order_N[: _count(size, fraction)]] = True
    return mask_N.to(device)


def _count(size: int, fraction: float) -> int:
    return math.floor(fraction * size + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _matched_softmax(logits_NN: Tensor, dim: int) -> Tensor:
    return logits_NN.log_softmax(dim=dim).diagonal().exp()


def _matched_quotient(logits_NN: Tensor, dim: int) -> Tensor:
    powers_NN = logits_NN.float().exp()
    return powers_NN.diagonal() / powers_NN.sum(dim=dim)
