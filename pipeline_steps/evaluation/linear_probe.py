"""Linear probe: multinomial logistic regression by L-BFGS on frozen image embeddings (CLIP paper, appendix A.3)."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.evaluation.feature_file import FeatureFile, Floats, Integers
from pipeline_steps.evaluation.scores import Evaluation, Score
from pipeline_steps.evaluation.zero_shot import mean_per_class

GRADIENT_TOLERANCE = 1e-6


class Probe(NamedTuple):
    """A fitted probe; `converged` is false when L-BFGS stopped at its last iteration."""

    model: LogisticRegression
    converged: bool


def evaluate_probe(features: FeatureFile, settings: EvalProbeConfig, *, seed: int) -> Evaluation:
    """Fit on the labelled training pictures of every data set that has them, score on its test pictures.

    The L2 strength is chosen on a share of the training split, never on test; then the probe is fitted on all of the
    training split. Scores are fractions in [0, 1]; the chance level of `accuracy` is that of always answering the
    largest training class. Outcomes: dataset, row, label, prediction.
    """
    scores, outcomes = {}, []
    for dataset in features.datasets_with("train/image"):
        train, train_label, _ = features.labelled(dataset, "train")
        test, label, row = features.labelled(dataset, "test")
        inverse_l2 = choose_inverse_l2(train, train_label, settings, seed=seed, title=f"probe {dataset}")
        probe = fit_probe(train, train_label, inverse_l2, settings.max_iterations)
        prediction = probe.model.predict(test.astype(np.float64))
        scores[dataset] = _scores(train_label, label, prediction) | {
            "inverse_l2": inverse_l2,
            "converged": probe.converged,
            "label_hash": features.label_hash(dataset),
            "split": "test",
        }
        columns = {"row": row, "label": label, "prediction": prediction}
        outcomes.append(pd.DataFrame({"dataset": dataset, **columns}))
    return Evaluation(scores, pd.concat(outcomes, ignore_index=True))


def fit_probe(image: Floats, label: Integers, inverse_l2: float, max_iterations: int) -> Probe:
    """Minimise inverse_l2 * sum of cross-entropies (nats) + half the squared weights, in float64; the bias is free.

    `image` (n, d), `label` (n,) with at least two classes.
    """
    model = LogisticRegression(C=inverse_l2, solver="lbfgs", tol=GRADIENT_TOLERANCE, max_iter=max_iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(image.astype(np.float64), label)
    return Probe(model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught))


def choose_inverse_l2(
    image: Floats, label: Integers, settings: EvalProbeConfig, *, seed: int, title: str = "probe"
) -> float:
    """The candidate with the highest accuracy on a seeded, stratified share of the training split.

    Of equal candidates the smallest, that is the strongest regularisation, wins. Raises PipelineError when the split
    has fewer than two classes or its validation share fewer pictures than classes.
    """
    fit_rows, held_out = _split(label, settings.validation_fraction, seed)
    candidates = sorted(settings.inverse_l2)
    accuracies = []
    for candidate in tqdm(candidates, desc=title, unit="fit", mininterval=5.0):
        probe = fit_probe(image[fit_rows], label[fit_rows], candidate, settings.max_iterations)
        accuracies.append(probe.model.score(image[held_out].astype(np.float64), label[held_out]))
    return float(candidates[int(np.argmax(accuracies))])


def _split(label: Integers, validation_fraction: float, seed: int) -> tuple[Integers, Integers]:
    classes, counts = np.unique(label, return_counts=True)
    if len(classes) < 2:
        raise PipelineError(
            f"the probe's training split holds {len(classes)} class and at least two are needed; "
            "choose another data set in extract_features.datasets."
        )
    alone = np.isin(label, classes[counts == 1])
    shared = np.flatnonzero(~alone)
    try:
        fit_rows, held_out = train_test_split(
            shared, test_size=validation_fraction, random_state=seed, stratify=label[shared]
        )
    except ValueError as error:
        raise PipelineError(
            f"{len(shared)} training pictures of {len(classes)} classes cannot be split with "
            f"eval_probe.validation_fraction = {validation_fraction} ({error}). Use a fraction that leaves each side "
            "at least one picture per class."
        ) from error
    return np.concatenate([fit_rows, np.flatnonzero(alone)]), held_out


def _scores(train_label: Integers, label: Integers, prediction: Integers) -> dict[str, Score]:
    values, counts = np.unique(train_label, return_counts=True)
    return {
        "accuracy": float(np.mean(prediction == label)),
        "chance_accuracy": float(np.mean(label == values[int(np.argmax(counts))])),
        "mean_per_class": mean_per_class(label, prediction),
        "chance_mean_per_class": 1 / len(np.unique(label)),
        "classes": len(values),
        "n_train": len(train_label),
        "n": len(label),
    }
