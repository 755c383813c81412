"""Ranks, recalls and zero-shot scores by plain loops over every pair, in exact order of the definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def inner_product(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(float(a) * float(b) for a, b in zip(left, right, strict=True))


def rank_of(similarities: Sequence[float], target: int) -> int:
    """1 + strictly greater ones + equal ones at a lower index."""
    own = similarities[target]
    return 1 + sum(
        1 for index, other in enumerate(similarities) if other > own or (other == own and index < target)
    )  # fmt: skip


def zero_shot(image: Any, class_text: Any, label: Any) -> tuple[list[int], list[int]]:
    """Predictions and ranks of the true class."""
    predictions, ranks = [], []
    for row, truth in zip(image, label, strict=True):
        similarities = [inner_product(row, text) for text in class_text]
        predictions.append(similarities.index(max(similarities)))
        ranks.append(rank_of(similarities, int(truth)))
    return predictions, ranks


def mean_per_class(predictions: Sequence[int], label: Sequence[int]) -> float:
    shares = []
    for name in sorted(set(label)):
        own = [prediction == name for prediction, truth in zip(predictions, label, strict=True) if truth == name]
        shares.append(sum(own) / len(own))
    return sum(shares) / len(shares)


def recalls(image: Any, caption: Any, caption_image: Sequence[int], ks: Sequence[int]) -> dict[str, float]:
    """Recall@k in both directions from the full matrix of similarities."""
    owners = [int(owner) for owner in caption_image]
    text_ranks = [
        rank_of([inner_product(text, row) for row in image], owner) for text, owner in zip(caption, owners, strict=True)
    ]
    image_ranks = []
    for query, row in enumerate(image):
        own = [index for index, owner in enumerate(owners) if owner == query]
        if own:
            similarities = [inner_product(row, text) for text in caption]
            image_ranks.append(min(rank_of(similarities, index) for index in own))
    found = {}
    for k in ks:
        found[f"image_to_text_recall@{k}"] = sum(rank <= k for rank in image_ranks) / len(image_ranks)
        found[f"text_to_image_recall@{k}"] = sum(rank <= k for rank in text_ranks) / len(text_ranks)
    found["mean_recall"] = sum(found.values()) / len(found)
    return found
