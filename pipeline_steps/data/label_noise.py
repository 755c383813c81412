"""Label noise on purpose: symmetric, asymmetric and instance-dependent, decided by a seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
_RATE_SPREAD = 0.1


def symmetric_noise(label_N: Integers, *, classes: int, fraction: float, seed: int, own_too: bool) -> Integers:
    """round(fraction * N) of the labels drawn anew, uniformly over the classes.

    With `own_too` a draw may be the label that was there, so that fraction * (1 - 1 / classes) are wrong at the end.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(label_N))[: round(fraction * len(label_N))]
    noisy_N = label_N.copy()
    if own_too:
        noisy_N[chosen] = random.integers(0, classes, len(chosen))
    else:
        noisy_N[chosen] = (label_N[chosen] + random.integers(1, classes, len(chosen))) % classes
    return noisy_N


def asymmetric_noise(label_N: Integers, *, target_K: Integers, fraction: float, seed: int) -> Integers:
    """round(fraction * N) samples get the label `target_K` of their class, which may be the same."""
    chosen = np.random.default_rng(seed).permutation(len(label_N))[: round(fraction * len(label_N))]
    noisy_N = label_N.copy()
    noisy_N[chosen] = target_K[label_N[chosen]]
    return noisy_N


def instance_noise(label_N: Integers, pixels_ND: Floats, *, classes: int, fraction: float, seed: int) -> Integers:
    """Labels that flip by what is in the picture (Xia et al. 2020, "Part-dependent Label Noise", Alg. 2).

    A sample's flip rate q is normal around `fraction` with deviation 0.1, drawn again outside [0, 1], so that near 0
    its mean is higher (0.13 for 0.1); a random projection of its standardised pixels, one per true class, gives the
    other classes their shares of q by a softmax. A `fraction` of 0 leaves every label.
    """
    if fraction == 0:
        return label_N.copy()
    random = np.random.default_rng(seed)
    rate_N = _truncated_normal(random, fraction, len(label_N))
    spread = pixels_ND.std(axis=0)
    standard_ND = (pixels_ND - pixels_ND.mean(axis=0)) / np.where(spread > 0, spread, 1)
    noisy_N = label_N.copy()
    for own in range(classes):
        rows = np.flatnonzero(label_N == own)
        projection_DK = random.standard_normal((pixels_ND.shape[1], classes))
        logits_MK = standard_ND[rows] @ projection_DK
        logits_MK[:, own] = -np.inf
        share_MK = np.exp(logits_MK - logits_MK.max(axis=1, keepdims=True))
        share_MK *= (rate_N[rows] / share_MK.sum(axis=1))[:, None]
        share_MK[:, own] = 1 - rate_N[rows]
        drawn_M = (share_MK.cumsum(axis=1) < random.random(len(rows))[:, None]).sum(axis=1)
        noisy_N[rows] = np.minimum(drawn_M, classes - 1)
    return noisy_N


def _truncated_normal(random: np.random.Generator, mean: float, count: int) -> npt.NDArray[np.float64]:
    found = random.normal(mean, _RATE_SPREAD, count)
    while (outside := np.flatnonzero((found < 0) | (found > 1))).size:
        found[outside] = random.normal(mean, _RATE_SPREAD, outside.size)
    return found
