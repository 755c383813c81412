"""Image-text retrieval: recall@k in both directions, for any number of captions per picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.feature_file import FeatureFile, Floats, Integers
from pipeline_steps.evaluation.ranking import rank_matches
from pipeline_steps.evaluation.scores import CHANCE, Evaluation, Score

IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"


def evaluate_retrieval(features: FeatureFile, *, recall_at: Sequence[int]) -> Evaluation:
    """Recall@k of every data set that has captions, fractions in [0, 1], both ways, and `mean_recall` over them all.

    Image to text: a picture counts when one of its captions is among the first k of all captions. Text to image: a
    caption counts when its picture is among the first k of all pictures. A picture without a caption is in the
    gallery and asks no question. Outcomes: dataset, direction, query (row of the picture or of the caption), image
    (row of the picture it belongs to), rank. Raises PipelineError for a k above the size of a gallery.
    """
    scores, outcomes = {}, []
    for dataset in features.datasets_with("test/caption"):
        image = features.matrix(f"{dataset}/test/image")
        caption = features.matrix(f"{dataset}/test/caption")
        caption_image = features.indices(f"{dataset}/test/caption_image", rows=len(caption), below=len(image))
        _require_gallery(dataset, min(len(image), len(caption)), recall_at)
        ranks = retrieval_ranks(image, caption, caption_image, title=f"retrieval {dataset}")
        scores[dataset] = recall_scores(ranks, caption_image, len(image), recall_at)
        scores[dataset] |= {"label_hash": features.label_hash(dataset), "split": "test"}
        outcomes.append(ranks.assign(dataset=dataset)[["dataset", "direction", "query", "image", "rank"]])
    return Evaluation(scores, pd.concat(outcomes, ignore_index=True))


def retrieval_ranks(
    image: Floats, caption: Floats, caption_image: Integers, *, title: str = "retrieval"
) -> pd.DataFrame:
    """Rank (1 is best) of each query's best match. `image` (n, d), `caption` (m, d), `caption_image` (m,) in [0, n)."""
    with_caption = np.unique(caption_image)
    all_images = np.arange(len(image))
    to_text = rank_matches(image[with_caption], caption, with_caption, caption_image, title=f"{title}, image to text")
    to_image = rank_matches(caption, image, caption_image, all_images, title=f"{title}, text to image")
    asked_by_image = pd.DataFrame({"query": with_caption, "image": with_caption, "rank": to_text.rank})
    asked_by_text = pd.DataFrame({"query": np.arange(len(caption)), "image": caption_image, "rank": to_image.rank})
    return pd.concat(
        [asked_by_image.assign(direction=IMAGE_TO_TEXT), asked_by_text.assign(direction=TEXT_TO_IMAGE)],
        ignore_index=True,
    )


def recall_scores(
    ranks: pd.DataFrame, caption_image: Integers, n_images: int, recall_at: Sequence[int]
) -> dict[str, Score]:
    """Recalls, their mean, and the expectation of each under a random order of the gallery."""
    _, captions_of = np.unique(caption_image, return_counts=True)
    recalls, chances = {}, {}
    for k in sorted(set(recall_at)):
        for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
            rank = ranks.loc[ranks["direction"] == direction, "rank"]
            recalls[f"{direction}_recall@{k}"] = float(np.mean(rank <= k))
        chances[f"{IMAGE_TO_TEXT}_recall@{k}"] = chance_of_any(captions_of, len(caption_image), k)
        chances[f"{TEXT_TO_IMAGE}_recall@{k}"] = k / n_images
    recalls["mean_recall"] = float(np.mean(list(recalls.values())))
    chances["mean_recall"] = float(np.mean(list(chances.values())))
    counts = {"n_images": n_images, "n_captions": len(caption_image), "n_image_queries": len(captions_of)}
    return {**recalls, **{f"{CHANCE}{name}": value for name, value in chances.items()}, **counts}


def chance_of_any(matches_of: Integers, gallery: int, k: int) -> float:
    """Mean over queries of the probability that k draws without return from `gallery` hold one of its matches.

    1 - C(gallery - c, k) / C(gallery, k) for a query with c matches, as a product over the k draws.
    """
    draws = np.arange(k)[None, :]
    missed = np.clip((gallery - matches_of[:, None] - draws) / (gallery - draws), 0, 1)
    return float(np.mean(1 - missed.prod(axis=1)))


def _require_gallery(dataset: str, smallest: int, recall_at: Sequence[int]) -> None:
    too_large = [k for k in recall_at if k > smallest]
    if too_large:
        raise PipelineError(
            f"eval_retrieval.recall_at asks for recall@{max(too_large)} of {dataset}, whose smaller side has "
            f"{smallest} members; allowed are values up to {smallest}. Take the larger ones out of "
            "eval_retrieval.recall_at."
        )
