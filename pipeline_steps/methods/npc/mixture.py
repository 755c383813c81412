"""Clean or noisy by a mixture of two Gaussians over losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import MixtureConfig

Floats = npt.NDArray[np.floating[Any]]


def clean_probability(loss_N: Floats, settings: MixtureConfig, seed: int) -> npt.NDArray[np.float64]:
    """The posterior of a two-component Gaussian mixture's component of the lower mean, (N,) in [0, 1].

    Raises PipelineError when the losses have fewer than two values, which no mixture divides.
    """
    from sklearn.mixture import GaussianMixture  # a second, which few forget sets are picked by

    if len(np.unique(loss_N)) < 2:
        raise PipelineError(
            f"the losses of {len(loss_N)} pairs are all the same, so no mixture divides them into clean and noisy ones"
        )
    mixture = GaussianMixture(
        2, max_iter=settings.max_iterations, tol=settings.tolerance, reg_covar=settings.covariance_floor,
        random_state=seed,
    ).fit(loss_N[:, None])  # fmt: skip
    posterior: npt.NDArray[np.float64] = mixture.predict_proba(loss_N[:, None])[:, mixture.means_[:, 0].argmin()]
    return posterior
