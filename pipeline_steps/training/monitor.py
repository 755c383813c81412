"""The forget set against the injected noise. Training never sees this truth; only these metrics do."""

from __future__ import annotations

from torch import Tensor


class ForgetSetMonitor:
    """Precision and recall of the pairs picked as false positives, per step.

    `is_noisy` (P,) bool is the truth of every training row. A pick that is truly noisy is a true positive.
    """

    def __init__(self, is_noisy: Tensor) -> None:
        self._is_noisy = is_noisy

    def metrics(self, rows_N: Tensor, forget_N: Tensor) -> dict[str, float]:
        """For one batch: precision, recall and the base rate (the precision of a random pick).

        Without a noisy pair in the batch recall has no meaning and is left out; without a pick, precision is; without
        any injected noise, everything is.
        """
        if not self._is_noisy.any():
            return {}
        noisy_N, forget_N = self._is_noisy[rows_N.cpu()], forget_N.cpu()
        hits = int((noisy_N & forget_N).sum())
        found = {"forget_set/base_rate": float(noisy_N.float().mean())}
        if forget_N.any():
            found["forget_set/precision"] = hits / int(forget_N.sum())
        if noisy_N.any():
            found["forget_set/recall"] = hits / int(noisy_N.sum())
        return found
