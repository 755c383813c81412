"""The objective of multinomial logistic regression in float64, minimised by a general solver."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

Array = npt.NDArray[np.float64]


def objective(weight_CD: Array, bias_C: Array, image: Array, label: npt.NDArray[np.int64], inverse_l2: float) -> float:
    """inverse_l2 * sum of cross-entropies in nats + half the squared weights; the bias is not penalised."""
    logits = image @ weight_CD.T + bias_C
    cross_entropy = logsumexp(logits, axis=1) - logits[np.arange(len(label)), label]
    return float(inverse_l2 * cross_entropy.sum() + 0.5 * (weight_CD**2).sum())


def optimum(image: Array, label: npt.NDArray[np.int64], inverse_l2: float) -> float:
    """The least value of the objective, by BFGS from zero with differences for the gradient."""
    classes, width = int(label.max()) + 1, image.shape[1]

    def of_vector(vector: Array) -> float:
        weight = vector[: classes * width].reshape(classes, width)
        return objective(weight, vector[classes * width :], image, label, inverse_l2)

    start = np.zeros(classes * (width + 1))
    return float(minimize(of_vector, start, method="BFGS", options={"gtol": 1e-5, "maxiter": 2000}).fun)
