"""Linear probe: multinomial logistic regression on frozen image features (CLIP paper, appendix A.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from pipeline_steps.core.schema import EvalProbeConfig
from pipeline_steps.evaluation.features.index import Features, Integers
from pipeline_steps.evaluation.labelled_rows import LabelledRows, Part
from pipeline_steps.evaluation.scores import Evaluation, Score, evaluation_of
from pipeline_steps.evaluation.softmax_regression import SoftmaxRegression, Solution, UnfitSetError
from pipeline_steps.evaluation.strength_sweep import Sweep, choose_strength, predict
from pipeline_steps.evaluation.zero_shot import mean_per_class
from pipeline_steps.models.device import best_device

COLUMNS = ("dataset", "row", "label", "prediction", "rank")
TASK = "classification"
TAPS = {"projected": "image", "penultimate": "penultimate"}


class Probe(NamedTuple):
    """A probe fitted on everything but test; `sweep` is None where there was one strength, `validation` says on what
    it was chosen.
    """

    solution: Solution
    sweep: Sweep | None
    validation: str


def evaluate_probe(features: Features, settings: EvalProbeConfig, *, seed: int) -> Evaluation:
    """Choose, fit and score a probe for every data set that has labelled training pictures.

    Scores are fractions in [0, 1]; the chance levels of `accuracy` and `top5` are those of always answering the
    largest training classes. `sweep` has the validation accuracy of every strength tried. Outcomes: dataset, row,
    label, prediction, rank of the true class. Holes: sets without test or training pictures, and those that no probe
    can be fitted on.
    """
    scores, outcomes, holes = {}, [], dict(features.holes(TASK, "train"))
    for dataset in features.datasets_with("train/label"):
        try:
            probe = fit_probe(features, dataset, settings, seed=seed)
        except UnfitSetError as error:
            holes[dataset] = str(error)
            continue
        label = features.labels(dataset, "test")
        prediction, rank = predict(probe.solution, _rows([_part(features, dataset, "test", settings)], settings))
        row = np.flatnonzero(label >= 0)
        scores[dataset] = features.facts(dataset, "test") | _measures(
            _training_labels(features, dataset), label[row], prediction, rank
        )
        scores[dataset] |= _facts(probe, settings)
        columns = {"row": row, "label": label[row], "prediction": prediction, "rank": rank}
        outcomes.append(pd.DataFrame({"dataset": dataset, **columns}))
    return evaluation_of(scores, outcomes, COLUMNS, holes)


def fit_probe(features: Features, dataset: str, settings: EvalProbeConfig, *, seed: int) -> Probe:
    """The probe of one data set: its strength chosen on the validation split, fitted on train and validation.

    Where the set has no validation split, a seeded, stratified share of train stands for it. Test takes no part.
    Raises UnfitSetError when train has fewer than two classes, or its share fewer pictures than classes.
    """
    whole = [_part(features, dataset, split, settings) for split in _training_splits(features, dataset)]
    sweep, validation, strengths = None, "none: one strength", settings.inverse_l2
    if strengths.count > 1:
        if len(whole) == 2:
            validation = str(features.facts(dataset, "validation")["split"])
            fitted, held_out = whole
        else:
            validation = f"{settings.validation_fraction:g} of train"
            fitted, held_out = divided(whole[0], settings.validation_fraction, seed)
        sweep = choose_strength(
            _rows([fitted], settings), _rows([held_out], settings), strengths, settings.max_iterations,
            title=f"probe {dataset}",
        )  # fmt: skip
    inverse_l2, start = (strengths.lowest, None) if sweep is None else (sweep.chosen.inverse_l2, sweep.chosen)
    solution = SoftmaxRegression(_rows(whole, settings)).fit(inverse_l2, settings.max_iterations, start)
    return Probe(solution, sweep, validation)


def divided(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """The part without, and with nothing but, a stratified share of its labelled rows.

    A class with one row stays in the first.
    """
    used = np.flatnonzero(part.label >= 0)
    classes, counts = np.unique(part.label[used], return_counts=True)
    shared = used[~np.isin(part.label[used], classes[counts == 1])]
    if not len(shared):
        raise UnfitSetError(
            "no class has two training pictures, so none can be held out to choose the strength on; it needs a "
            "validation split, or one strength for all sets (eval_probe.inverse_l2: lowest = highest)"
        )
    try:
        _, held_out = train_test_split(shared, test_size=fraction, random_state=seed, stratify=part.label[shared])
    except ValueError as error:
        raise UnfitSetError(
            f"{len(shared)} training pictures of {len(classes)} classes cannot be split with "
            f"eval_probe.validation_fraction = {fraction} ({error}); it needs one that leaves each side a picture of "
            "every class"
        ) from error
    is_held_out = np.zeros(len(part.label), dtype=bool)
    is_held_out[held_out] = True
    left, right = (np.where(rows, part.label, -1) for rows in (~is_held_out, is_held_out))
    return Part(part.matrix, left), Part(part.matrix, right)


def _training_splits(features: Features, dataset: str) -> list[str]:
    return ["train", "validation"] if features.has(f"{dataset}/validation/label") else ["train"]


def _training_labels(features: Features, dataset: str) -> Integers:
    label = np.concatenate([features.labels(dataset, split) for split in _training_splits(features, dataset)])
    return label[label >= 0]


def _part(features: Features, dataset: str, split: str, settings: EvalProbeConfig) -> Part:
    return Part(features.raw(f"{dataset}/{split}/{TAPS[settings.tap]}"), features.labels(dataset, split))


def _rows(parts: list[Part], settings: EvalProbeConfig) -> LabelledRows:
    return LabelledRows(parts, normalize=settings.normalize, device=best_device())


def _facts(probe: Probe, settings: EvalProbeConfig) -> dict[str, Score]:
    accuracy = probe.sweep.accuracy if probe.sweep else {}
    return {
        "inverse_l2": probe.solution.inverse_l2,
        "validation": probe.validation,
        "sweep": ", ".join(f"{inverse_l2:g}: {value:.4f}" for inverse_l2, value in accuracy.items()),
        "sweep_unconverged": len(probe.sweep.unconverged) if probe.sweep else 0,
        "converged": probe.solution.converged,
        "iterations": probe.solution.iterations,
        "tap": settings.tap,
        "normalize": settings.normalize,
    }


def _measures(train: Integers, label: Integers, prediction: Integers, rank: Integers) -> dict[str, Score]:
    values, counts = np.unique(train, return_counts=True)
    by_size = values[np.argsort(-counts, kind="stable")]
    scores: dict[str, Score] = {"n": len(label), "n_train": len(train), "classes": len(values)}
    for name, k in (("accuracy", 1), ("top5", 5)):
        if k == 1 or len(values) > k:
            scores[name] = float(np.mean(rank <= k)) if k > 1 else float(np.mean(prediction == label))
            scores[f"chance_{name}"] = float(np.mean(np.isin(label, by_size[:k])))
    scores["mean_per_class"] = mean_per_class(label, prediction)
    scores["chance_mean_per_class"] = 1 / len(np.unique(label))
    return scores
