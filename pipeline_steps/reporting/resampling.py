"""The bootstrap's engine: many resamples of the same rows at once, as counts of draws times columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_steps.core.errors import PipelineError

Floats = npt.NDArray[np.float64]
DRAWS_AT_ONCE = 2**21


def resampled_sums(
    values_NK: npt.NDArray[Any],
    *,
    samples: int,
    rng: np.random.Generator,
    strata_N: npt.NDArray[Any] | None = None,
) -> Floats:
    """Sums over rows drawn with return, (samples, K): every resample draws N rows, the same ones for all K columns.

    With `strata_N` (N,) each resample draws within every stratum as many rows as it has. At most `DRAWS_AT_ONCE` draws
    (or one resample's) are in memory. Raises PipelineError for fewer than two rows, of which nothing can be learnt.
    """
    rows = len(values_NK)
    if rows < 2:
        raise PipelineError("a bootstrap interval needs at least two test pictures; use a larger test split")
    values = np.asarray(values_NK, dtype=np.float64)
    first_N, size_N = np.zeros(rows, np.int64), np.full(rows, rows)
    if strata_N is not None:
        order = np.argsort(strata_N, kind="stable")
        _, start, size = np.unique(strata_N[order], return_index=True, return_counts=True)
        values, first_N, size_N = values[order], np.repeat(start, size), np.repeat(size, size)
    at_once = max(1, DRAWS_AT_ONCE // rows)
    sums = np.empty((samples, values.shape[1]))
    for begin in range(0, samples, at_once):
        chunk = min(at_once, samples - begin)
        drawn = first_N + (rng.random((chunk, rows)) * size_N).astype(np.int64)
        drawn += rows * np.arange(chunk)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=chunk * rows).reshape(chunk, rows)
        sums[begin : begin + chunk] = counts.astype(np.float64) @ values
    return sums
