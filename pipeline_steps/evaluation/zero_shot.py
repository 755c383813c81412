"""Zero-shot classification: each picture goes to the class whose text embedding is nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features, Integers
from pipeline_steps.evaluation.ranking import rank_matches
from pipeline_steps.evaluation.scores import Evaluation, Score, evaluation_of

COLUMNS = ("dataset", "row", "label", "prediction", "rank")
TASK = "classification"


def evaluate_zero_shot(features: Features, *, topk: Sequence[int]) -> Evaluation:
    """Classify the labelled test pictures of every data set that has class embeddings.

    Scores are fractions in [0, 1]: `top1` (always) and `top<k>` for each k up to the set's number of classes;
    `mean_per_class` is the mean over the classes present of the share of their pictures put right (CLIP paper,
    appendix A). Outcomes: dataset, row, label, prediction, rank of the true class.
    """
    scores, outcomes = {}, []
    for dataset in features.datasets_with("class_text"):
        image, label, row = features.labelled(dataset, "test")
        class_text = features.matrix(f"{dataset}/class_text")
        _require_names(features, dataset, len(class_text))
        ranking = rank_matches(image, class_text, label, np.arange(len(class_text)), title=f"zero-shot {dataset}")
        measured = classification_scores(ranking.rank, ranking.nearest, label, len(class_text), topk)
        scores[dataset] = features.facts(dataset, "test") | measured
        columns = {"row": row, "label": label, "prediction": ranking.nearest, "rank": ranking.rank}
        outcomes.append(pd.DataFrame({"dataset": dataset, **columns}))
    return evaluation_of(scores, outcomes, COLUMNS, features.holes(TASK))


def classification_scores(
    rank: Integers, prediction: Integers, label: Integers, classes: int, topk: Sequence[int]
) -> dict[str, Score]:
    """Top-k and mean per-class accuracy of n pictures, with the chance levels k / classes and 1 / classes.

    A k above `classes` is left out.
    """
    scores: dict[str, Score] = {"n": len(label), "classes": classes}
    for k in sorted({1, *(k for k in topk if k <= classes)}):
        scores[f"top{k}"] = float(np.mean(rank <= k))
        scores[f"chance_top{k}"] = k / classes
    scores["mean_per_class"] = mean_per_class(label, prediction)
    scores["chance_mean_per_class"] = 1 / classes
    return scores


def mean_per_class(label: Integers, prediction: Integers) -> float:
    """Mean over the classes that occur in `label` (n,) of the share of their pictures predicted right, in [0, 1]."""
    return float(pd.Series(prediction == label).groupby(label).mean().mean())


def _require_names(features: Features, dataset: str, classes: int) -> None:
    names = features.class_names(dataset)
    if len(names) != classes:
        raise PipelineError(
            f"{features.path}: {dataset} has {len(names)} class names and {classes} class embeddings. "
            "Delete this index and run extract_features for this checkpoint again."
        )
