"""CLIPCleaner as plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

Vectors = Sequence[Sequence[float]]


def posterior(image: Sequence[float], prompts: Sequence[Vectors], scale: float, pooling: str) -> list[float]:
    """p(class | image) over classes, each a list of prompt embeddings."""
    pooled = []
    for of_class in prompts:
        powers = [math.exp(scale * sum(a * b for a, b in zip(image, one, strict=True))) for one in of_class]
        pooled.append(sum(powers) / (len(powers) if pooling == "mean" else 1))
    return [one / sum(pooled) for one in pooled]


def scaled(scores: Sequence[float], labels: Sequence[int]) -> list[float]:
    """Min-max within each class."""
    found = []
    for score, label in zip(scores, labels, strict=True):
        own = [other for other, one in zip(scores, labels, strict=True) if one == label]
        found.append((score - min(own)) / (max(own) - min(own)))
    return found


def mixfix(
    probabilities: Vectors, labels: Sequence[int], selected: Sequence[bool], absorb: float, relabel: float
) -> tuple[list[int], list[bool]]:
    """Labels and selection after a round."""
    new_labels, new_selected = [], []
    for row, label, taken in zip(probabilities, labels, selected, strict=True):
        best = max(range(len(row)), key=lambda k: row[k])
        sure = row[best] >= (absorb if best == label else relabel)
        new_labels.append(best if sure else label)
        new_selected.append(taken or sure)
    return new_labels, new_selected
