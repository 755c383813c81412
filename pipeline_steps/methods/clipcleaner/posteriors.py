"""What CLIP and a regression on its features say of every class, and the scores that a label gets by it.

Source: Feng, Tzimiropoulos, Patras, "CLIPCleaner" (ACM MM 2024, arXiv 2408.10012) and its code, clipcleaner.py of
MrChenFeng/CLIPCleaner_ACMMM2024 at efff9cd.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import SelectCleanConfig
from pipeline_steps.methods.ncu.forget_set import clean_confidence

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
LEAST_LOG = -700.0  # a probability that float64 still holds
_ROWS_AT_ONCE = 4096


def zeroshot_log_posterior(
    image_ND: Floats, prompt_PD: Floats, class_P: Integers, *, logit_scale: float, pooling: Literal["mean", "sum"]
) -> Tensor:
    """log p(class | image) (N, K): the softmax over classes of the mean, or sum, over their prompts of exp(s cos).

    Embeddings are l2-normalised; `class_P` is each prompt's class, 0 to K - 1, all of which have one.
    """
    prompts = torch.from_numpy(np.asarray(prompt_PD, dtype=np.float32))
    members = [torch.from_numpy(np.flatnonzero(class_P == one)) for one in range(int(class_P.max()) + 1)]
    log_count_K = torch.tensor([len(one) for one in members], dtype=torch.float64).log()
    found = []
    for start in range(0, len(image_ND), _ROWS_AT_ONCE):
        images = torch.from_numpy(np.asarray(image_ND[start : start + _ROWS_AT_ONCE], dtype=np.float32))
        logits_MP = logit_scale * (images @ prompts.T).double()
        pooled_MK = torch.stack([logits_MP[:, one].logsumexp(dim=1) for one in members], dim=1)
        found.append((pooled_MK - log_count_K if pooling == "mean" else pooled_MK).log_softmax(dim=1))
    return torch.cat(found)


def regression_log_posterior(image_ND: Floats, label_N: Integers, settings: SelectCleanConfig, seed: int) -> Tensor:
    """log p(class | image) (N, K) of a class-balanced logistic regression on the noisy labels, K = max(label) + 1.

    `out_of_fold`: each sample's by regressions that have not seen it; a class that a regression has not seen has
    probability 0 there. `in_sample`: fitted and read on the same samples, as the official code does. Where the
    largest class has fewer samples than `folds`, there are as many folds as those. Raises PipelineError for labels that
    no regression can be fitted on, such as those of one class.
    """
    model = LogisticRegression(C=settings.inverse_l2, class_weight="balanced", max_iter=settings.max_iterations)
    present, place_N = np.unique(label_N, return_inverse=True)
    folds = min(settings.folds, max(2, int(np.bincount(place_N).max(initial=0))))
    try:
        if settings.regression == "in_sample":
            found = model.fit(image_ND, place_N).predict_log_proba(image_ND)
        else:
            parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The least populated class|Number of classes in training fold")
                found = cross_val_predict(model, image_ND, place_N, cv=parts, method="predict_log_proba")
    except ValueError as error:
        raise PipelineError(
            f"select_clean: the regression cannot be fitted on {len(label_N)} labels of {len(present)} classes "
            f"({' '.join(str(error).split())}); where they are too few, take more (inject_label_noise.pictures)"
        ) from error
    log_NK = np.full((len(label_N), int(label_N.max()) + 1), LEAST_LOG)
    log_NK[:, present] = np.maximum(found, LEAST_LOG)
    return torch.from_numpy(log_NK)


def label_scores(log_NK: Tensor, label_N: Integers) -> tuple[Floats, Floats]:
    """log p of each sample's label (N,), and its consistency p_label / max p (N,) in (0, 1]."""
    own_N = log_NK.gather(1, torch.from_numpy(label_N)[:, None])[:, 0].clamp(min=LEAST_LOG)
    consistency_N = (own_N - log_NK.amax(dim=1)).exp()
    return own_N.numpy(), consistency_N.numpy()


def batch_confidence(
    image_ND: Floats, class_KD: Floats, label_N: Integers, *, logit_scale: float, batch_size: int, seed: int
) -> Floats:
    """NCU's clean confidence (Eq. 2, both directions) of each sample and its class's text, in random batches, (N,).

    Samples of one class share their text, so they are each other's false negatives, as captions that repeat are in NCU.
    """
    order = np.random.default_rng(seed).permutation(len(label_N))
    found = np.empty(len(label_N))
    scale = torch.tensor(logit_scale)
    for rows in np.array_split(order, max(1, len(order) // batch_size)):
        sim_MM = torch.from_numpy(np.asarray(image_ND[rows] @ class_KD[label_N[rows]].T, dtype=np.float32))
        found[rows] = clean_confidence(sim_MM, scale, "symmetric").numpy()
    return found
