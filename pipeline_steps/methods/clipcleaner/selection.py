"""From scores to the samples that are taken for clean: rules by class, votes, and classes that would be empty.

Source: as posteriors.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.mixture import GaussianMixture

from pipeline_steps.core.schema import SelectCleanConfig

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Selection(NamedTuple):
    """What each rule judges by and takes for clean, how many do, and the samples that are selected, (N,) each."""

    judged: dict[str, Floats]
    picks: dict[str, Flags]
    votes_N: Integers
    selected_N: Flags


def select(
    scores: Mapping[str, Floats], label_N: Integers, settings: SelectCleanConfig, *, classes: int, seed: int
) -> Selection:
    """The samples that `agree` of the rules take for clean, and of classes that would be empty those that fill them.

    `scores` has every rule's (N,): those by loss scaled within their class, whose mixture's probability is judged;
    the others as they are.
    """
    judged: dict[str, Floats] = {
        rule: mixture_probability(score, label_N, settings, seed) if rule.endswith("_loss") else score
        for rule, score in scores.items()
    }
    picks: dict[str, Flags] = {rule: _picked(judged[rule], scores[rule], rule, settings) for rule in settings.rules}
    votes_N = np.sum(list(picks.values()), axis=0)
    chosen = votes_N >= settings.agree
    filled = fill_empty_classes(chosen, scores["zeroshot_loss"], label_N, settings, classes=classes)
    return Selection(judged, picks, votes_N, filled)


def scaled_in_class(score_N: Floats, label_N: Integers) -> Floats:
    """Each score between the least (0) and the greatest (1) of its class; NaN where they are the same."""
    found = np.empty(len(score_N))
    for rows in _rows_of_classes(label_N):
        low, high = score_N[rows].min(), score_N[rows].max()
        found[rows] = (score_N[rows] - low) / (high - low) if high > low else np.nan
    return found


def mixture_probability(scaled_N: Floats, label_N: Integers, settings: SelectCleanConfig, seed: int) -> Floats:
    """Per class, the posterior of a two-component Gaussian mixture's component of the higher mean, (N,).

    A class of one sample, or of equal scores, has no mixture: its samples get 1 (`small_classes: keep`) or NaN, which
    no threshold lets pass (`drop`); the official code divides by zero and stops.
    """
    found = np.empty(len(scaled_N))
    limits = settings.mixture
    for rows in _rows_of_classes(label_N):
        if not np.isfinite(scaled_N[rows]).all():
            found[rows] = 1.0 if settings.small_classes == "keep" else np.nan
            continue
        mixture = GaussianMixture(
            2, max_iter=limits.max_iterations, tol=limits.tolerance, reg_covar=limits.covariance_floor,
            random_state=seed,
        ).fit(scaled_N[rows, None])  # fmt: skip
        found[rows] = mixture.predict_proba(scaled_N[rows, None])[:, mixture.means_[:, 0].argmax()]
    return found


def top_share(score_N: Floats, share: float, ties_N: Floats | None = None) -> Flags:
    """The round(share * N) samples of the highest score; equal ones by `ties_N`, then by position; NaN last."""
    keys = [-np.nan_to_num(one, nan=-np.inf) for one in (ties_N, score_N) if one is not None]
    order = np.lexsort(keys)
    picked = np.zeros(len(score_N), dtype=bool)
    picked[order[: round(share * len(score_N))]] = True
    return picked


def fill_empty_classes(
    selected_N: Flags, score_N: Floats, label_N: Integers, settings: SelectCleanConfig, *, classes: int
) -> Flags:
    """The selection, in which no class with samples is without any.

    A class without gets its samples of the highest score (`best`), or the lowest (`worst`, the official sort), as many
    as the smallest class that has some, and at least floor(N / K / K) and one, as far as it has so many.
    """
    if settings.empty_classes == "leave":
        return selected_N
    counts_K = np.bincount(label_N[selected_N], minlength=classes)
    smallest = int(counts_K[counts_K > 0].min(initial=len(label_N)))
    wanted = max(1, smallest if smallest < len(label_N) else 0, len(label_N) // classes // classes)
    filled = selected_N.copy()
    for rows in _rows_of_classes(label_N):
        if counts_K[label_N[rows[0]]] == 0:
            order = np.argsort(np.nan_to_num(score_N[rows], nan=-np.inf), kind="stable")
            filled[rows[order[::-1] if settings.empty_classes == "best" else order][:wanted]] = True
    return filled


def _rows_of_classes(label_N: Integers) -> list[Integers]:
    """The rows of each class that has some."""
    order = np.argsort(label_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label_N[order])) + 1) if len(order) else []


def _picked(judged_N: Floats, score_N: Floats, rule: str, settings: SelectCleanConfig) -> Flags:
    """Above the rule's threshold; or the share that is asked for, equal probabilities of a mixture by the loss."""
    if settings.share is not None:
        return top_share(judged_N, settings.share, score_N)
    with np.errstate(invalid="ignore"):
        return judged_N >= (settings.theta_gmm if rule.endswith("_loss") else settings.theta_consistency)
