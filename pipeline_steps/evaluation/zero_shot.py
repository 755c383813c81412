"""Zero-shot classification: each picture goes to the class whose text embedding is nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import recall_score

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.feature_file import FeatureFile, Integers
from pipeline_steps.evaluation.ranking import rank_matches
from pipeline_steps.evaluation.scores import Evaluation, Score


def evaluate_zero_shot(features: FeatureFile, *, topk: Sequence[int]) -> Evaluation:
    """Classify the labelled test pictures of every data set that has class embeddings.

    Scores are fractions in [0, 1]: `top1` (always) and `top<k>` for each k; `mean_per_class` is the mean over the
    classes present of the share of their pictures put right (CLIP paper, appendix A). Outcomes: dataset, row,
    label, prediction, rank of the true class. Raises PipelineError for a k above the number of classes.
    """
    scores, outcomes = {}, []
    for dataset in features.datasets_with("class_text"):
        image, label, row = features.labelled(dataset, "test")
        class_text = features.matrix(f"{dataset}/class_text")
        _require_classes(features, dataset, len(class_text), topk)
        ranking = rank_matches(image, class_text, label, np.arange(len(class_text)), title=f"zero-shot {dataset}")
        scores[dataset] = classification_scores(ranking.rank, ranking.nearest, label, len(class_text), topk)
        scores[dataset] |= {"label_hash": features.label_hash(dataset), "split": "test"}
        columns = {"row": row, "label": label, "prediction": ranking.nearest, "rank": ranking.rank}
        outcomes.append(pd.DataFrame({"dataset": dataset, **columns}))
    return Evaluation(scores, pd.concat(outcomes, ignore_index=True))


def classification_scores(
    rank: Integers, prediction: Integers, label: Integers, classes: int, topk: Sequence[int]
) -> dict[str, Score]:
    """Top-k and mean per-class accuracy of n pictures, with the chance levels k / classes and 1 / classes."""
    scores: dict[str, Score] = {"n": len(label), "classes": classes}
    for k in sorted({1, *topk}):
        scores[f"top{k}"] = float(np.mean(rank <= k))
        scores[f"chance_top{k}"] = k / classes
    scores["mean_per_class"] = mean_per_class(label, prediction)
    scores["chance_mean_per_class"] = 1 / classes
    return scores


def mean_per_class(label: Integers, prediction: Integers) -> float:
    """Mean over the classes that occur in `label` (n,) of the share of their pictures predicted right, in [0, 1]."""
    return float(recall_score(label, prediction, labels=np.unique(label), average="macro", zero_division=0.0))


def _require_classes(features: FeatureFile, dataset: str, classes: int, topk: Sequence[int]) -> None:
    names = features.class_names(dataset)
    if len(names) != classes:
        raise PipelineError(
            f"{features.path}: {dataset} has {len(names)} class names and {classes} class embeddings. "
            "Run extract_features for this checkpoint again."
        )
    too_large = [k for k in topk if k > classes]
    if too_large:
        raise PipelineError(
            f"eval_zeroshot.topk asks for top-{max(too_large)} of {dataset}, which has {classes} classes; "
            f"allowed are values up to {classes}. Take the larger ones out of eval_zeroshot.topk."
        )
