"""The forget set against the injected noise. Training never sees this truth; only these metrics do."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_ODDS_LOW, LOG_ODDS_HIGH = -96.0, 18.0
LOG_ODDS_BINS = 16384


class ForgetSetMonitor:
    """Precision, recall and AUROC of the pairs picked as false positives: per step, and pooled over an epoch.

    `is_noisy` (P,) bool is the truth of every training row. A pick that is truly noisy is a true positive. AUROC is
    that of 1 - confidence, whatever the share picked; a confidence of NaN counts as the highest, as the pick has it.

    The epoch's confidences are kept as a histogram of their log-odds (2, 16384), 256 KiB for any number of pairs: 0.007
    a bin from -96 to 18, which holds every float32 below 1; what falls into one bin counts as tied.
    """

    def __init__(self, is_noisy: Tensor) -> None:
        self._is_noisy = is_noisy
        self._clear()

    def metrics(self, rows_N: Tensor, forget_N: Tensor, confidence_N: Tensor | None) -> dict[str, float]:
        """For one batch: precision, recall, AUROC, and the base rate (the precision of a random pick).

        Without a noisy pair in the batch recall has no meaning and is left out; without a pick, precision is; with
        pairs of one kind only, AUROC is; without any injected noise, everything is.
        """
        if not self._is_noisy.any():
            return {}
        noisy_N, forget_N = self._is_noisy[rows_N.cpu()], forget_N.cpu()
        hits_N = noisy_N & forget_N
        counts = torch.tensor([len(noisy_N), *(int(mask_N.sum()) for mask_N in (noisy_N, forget_N, hits_N))])
        self._counts += counts
        found = _rates(counts, "forget_set/")
        if confidence_N is not None:
            log_odds_N = _log_odds(confidence_N.cpu())
            self._histogram += _class_counts(_bin(log_odds_N), noisy_N, LOG_ODDS_BINS)
            distinct, place_N = torch.unique(log_odds_N, return_inverse=True)
            found |= _auroc(_class_counts(place_N, noisy_N, len(distinct)), "forget_set/")
        return found

    def epoch_metrics(self) -> dict[str, float]:
        """The same of everything seen since the last call, under names with `epoch_`; forgets it."""
        found = _rates(self._counts, "forget_set/epoch_") | _auroc(self._histogram, "forget_set/epoch_")
        self._clear()
        return found

    def state(self) -> dict[str, Tensor]:
        """What has been seen since the last `epoch_metrics`, for a resume."""
        return {"counts": self._counts.clone(), "histogram": self._histogram.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._counts, self._histogram = state["counts"].clone(), state["histogram"].clone()

    def _clear(self) -> None:
        self._counts = torch.zeros(4, dtype=torch.int64)
        self._histogram = torch.zeros(2, LOG_ODDS_BINS, dtype=torch.int64)


def _rates(counts: Tensor, prefix: str) -> dict[str, float]:
    seen, noisy, picked, hits = counts.tolist()
    found = {}
    if seen:
        found[f"{prefix}base_rate"] = noisy / seen
    if picked:
        found[f"{prefix}precision"] = hits / picked
    if noisy:
        found[f"{prefix}recall"] = hits / noisy
    return found


def _auroc(class_counts: Tensor, prefix: str) -> dict[str, float]:
    """From counts (2, B) of clean and noisy pairs by rising confidence: P(noisy below clean) + P(tied) / 2."""
    clean_B, noisy_B = class_counts.double()
    if not clean_B.any() or not noisy_B.any():
        return {}
    noisy_below_B = noisy_B.cumsum(0) - noisy_B / 2
    return {f"{prefix}auroc": float((clean_B * noisy_below_B).sum() / (clean_B.sum() * noisy_B.sum()))}


def _class_counts(place_N: Tensor, noisy_N: Tensor, places: int) -> Tensor:
    return torch.bincount(place_N + places * noisy_N, minlength=2 * places).reshape(2, places)


def _log_odds(confidence_N: Tensor) -> Tensor:
    """log(c / (1 - c)) in float64; infinite at 0 and 1, and plus infinity for NaN."""
    return torch.logit(confidence_N.double()).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _bin(log_odds_N: Tensor) -> Tensor:
    share_N = (log_odds_N.clamp(LOG_ODDS_LOW, LOG_ODDS_HIGH) - LOG_ODDS_LOW) / (LOG_ODDS_HIGH - LOG_ODDS_LOW)
    return (share_N * LOG_ODDS_BINS).long().clamp(max=LOG_ODDS_BINS - 1)
