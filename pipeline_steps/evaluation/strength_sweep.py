"""The choice of a strength on a validation split: few first, then finer around the best (CLIP paper, appendix A.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from pipeline_steps.core.schema import StrengthsConfig
from pipeline_steps.evaluation.labelled_rows import Integers, LabelledRows
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression, Solution


@dataclass(frozen=True)
class Sweep:
    """`chosen`: the fit with the highest validation accuracy; `accuracy`: strength to validation accuracy, ascending.

    `unconverged`: the strengths whose fits stopped at their last iteration.
    """

    chosen: Solution
    accuracy: dict[float, float]
    unconverged: tuple[float, ...]


def choose_strength(
    fitted: LabelledRows, held_out: LabelledRows, strengths: StrengthsConfig, max_iterations: int, *, title: str
) -> Sweep:
    """Fit on the one, count right answers on the other; each fit starts from that of the nearest strength so far.

    Of equally accurate strengths the smallest, that is the strongest regularisation, wins.
    """
    regression = SoftmaxRegression(fitted)
    fits: dict[float, Solution] = {}
    accuracy: dict[float, float] = {}
    with tqdm(desc=title, unit="fit", mininterval=5.0) as progress:

        def accuracy_at(place: int) -> float:
            inverse_l2 = strengths.at(place)
            nearest = min(fits, key=lambda other: abs(math.log(other / inverse_l2)), default=None)
            start = None if nearest is None else fits[nearest]
            fits[inverse_l2] = regression.fit(inverse_l2, max_iterations, start)
            prediction, _ = predict(fits[inverse_l2], held_out)
            accuracy[inverse_l2] = float(np.mean(prediction == held_out.label))
            progress.update()
            return accuracy[inverse_l2]

        best = find_peak(strengths.count, strengths.start, accuracy_at)
    unconverged = tuple(sorted(inverse_l2 for inverse_l2, fit in fits.items() if not fit.converged))
    return Sweep(fits[strengths.at(best)], dict(sorted(accuracy.items())), unconverged)


def find_peak(count: int, start: int, height_at: Callable[[int], float]) -> int:
    """The highest of the places 0 to count - 1 that were looked at, the first of equals.

    `start` of them, evenly spaced, are looked at first; then the spacing is halved, rounded down, and the two places
    so far from the highest are looked at, until the spacing is one.
    """
    spacing = (count - 1) // (start - 1) if start > 1 else 1
    known = {place: height_at(place) for place in range(0, count, spacing)}
    while True:
        peak = max(known, key=lambda place: (known[place], -place))
        if spacing == 1:
            return peak
        spacing //= 2
        for place in (peak - spacing, peak + spacing):
            if 0 <= place < count and place not in known:
                known[place] = height_at(place)


@torch.inference_mode()
def predict(solution: Solution, rows: LabelledRows) -> tuple[Integers, Integers]:
    """The class (n,) given to each row, and the rank (n,) of the true one, from 1.

    Of equal logits the lower class comes first. A class that the probe does not know comes after all that it knows.
    """
    predictions, ranks = [], []
    known = torch.from_numpy(solution.classes).to(rows.device)
    for feature_MD, label_M in rows.chunks(len(known)):
        logit_MK = solution.logits(feature_MD.double())
        predictions.append(known[logit_MK.argmax(dim=1)].cpu())
        own_MK = known == label_M[:, None]
        own_M = logit_MK.masked_fill(~own_MK, -torch.inf).amax(dim=1, keepdim=True)
        before_MK = (logit_MK > own_M) | ((logit_MK == own_M) & (known < label_M[:, None]))
        ranks.append((1 + before_MK.sum(dim=1)).where(own_MK.any(dim=1), 1 + len(known)).cpu())
    return torch.cat(predictions).numpy(), torch.cat(ranks).numpy()
