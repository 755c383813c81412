"""Training on a selection: class-balanced draws, mixup, and MixFix, which absorbs and relabels what was left out.

Source: main.py and utils/classbalancedsampler.py of MrChenFeng/CLIPCleaner_ACMMM2024 at efff9cd.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_steps.core.schema import TrainClassifierConfig

Integers = npt.NDArray[np.int64]


def balanced_order(label_M: Integers, seed: int) -> Integers:
    """Places 0 to M - 1 at random, each class as often as the largest: in whole rounds, then a random part of one."""
    random = np.random.default_rng(seed)
    counts = np.unique(label_M, return_counts=True)
    largest = int(counts[1].max())
    drawn = []
    for one in counts[0]:
        members = np.flatnonzero(label_M == one)
        rounds, rest = divmod(largest, len(members))
        drawn += [np.tile(members, rounds), random.permutation(members)[:rest]]
    return random.permutation(np.concatenate(drawn))


def mixed(images_BCHW: Tensor, label_B: Tensor, *, classes: int, beta: float, seed: int) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): pictures and one-hot targets (B, K), each l of its own and 1 - l of another's.

    l is drawn from Beta(beta, beta) once for the batch, and is at least one half.
    """
    random = np.random.default_rng(seed)
    share = float(random.beta(beta, beta))
    share = max(share, 1 - share)
    other_B = torch.from_numpy(random.permutation(len(label_B))).to(label_B.device)
    target_BK = F.one_hot(label_B, classes).to(images_BCHW.dtype)
    return (
        share * images_BCHW + (1 - share) * images_BCHW[other_B],
        share * target_BK + (1 - share) * target_BK[other_B],
    )


def mixfix(
    probability_NK: Tensor, label_N: Tensor, selected_N: Tensor, settings: TrainClassifierConfig
) -> tuple[Tensor, Tensor]:
    """The labels (N,) and the selection (N,) bool to train on next, from predictions on all samples.

    A sample that is predicted as its label with at least `theta_absorb` joins the first selection; one predicted as
    another class with at least `theta_relabel` joins it under that class.
    """
    best_N, predicted_N = probability_NK.max(dim=1)
    same_N = predicted_N == label_N
    sure_N = (same_N & (best_N >= settings.theta_absorb)) | (~same_N & (best_N >= settings.theta_relabel))
    return torch.where(sure_N, predicted_N, label_N), selected_N | sure_N
