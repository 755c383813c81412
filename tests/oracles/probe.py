"""The objective of multinomial logistic regression in float64, and scikit-learn's optimum of it by Newton's method."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def objective(weight_KD: Array, bias_K: Array, image: Array, label: Integers, inverse_l2: float) -> float:
    """inverse_l2 * sum of cross-entropies in nats + half the squared weights; the bias is not penalised.

    `weight_KD` may have one row, as scikit-learn's has for two classes: the second class's logit against zero.
    """
    logits = image @ weight_KD.T + bias_K
    if len(weight_KD) == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    cross_entropy = logsumexp(logits, axis=1) - logits[np.arange(len(label)), label]
    return float(inverse_l2 * cross_entropy.sum() + 0.5 * (weight_KD**2).sum())


def fitted(image: Array, label: Integers, inverse_l2: float) -> LogisticRegression:
    """scikit-learn's model at that strength, as near to the optimum as float64 comes."""
    model = LogisticRegression(C=inverse_l2, solver="newton-cholesky", tol=1e-10, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where its line search ends at rounding, L-BFGS goes on: not asked here
        return model.fit(image, label)


def optimum(image: Array, label: Integers, inverse_l2: float) -> float:
    """The least value of the objective."""
    model = fitted(image, label, inverse_l2)
    place = np.searchsorted(model.classes_, label)
    return objective(model.coef_, model.intercept_, image, place, inverse_l2)
