"""Image-text retrieval: recall@k in both directions, for any number of captions per picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.features.index import Features, Floats, Integers
from pipeline_steps.evaluation.ranking import rank_matches
from pipeline_steps.evaluation.scores import CHANCE, Evaluation, Score, evaluation_of

COLUMNS = ("dataset", "direction", "query", "image", "rank")
TASK = "retrieval"
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"


def evaluate_retrieval(features: Features, *, recall_at: Sequence[int]) -> Evaluation:
    """Recall@k of every data set that has captions, fractions in [0, 1], both ways, and `mean_recall` over them all.

    Image to text: a picture counts when one of its captions is among the first k of all captions. Text to image: a
    caption counts when its picture is among the first k of all pictures. A picture without a caption is in the
    gallery and asks no question. A set with folds has a second entry, `<set>_1k_folds` for folds of 1,000 pictures:
    consecutive pictures with their captions, each fold a gallery of its own, and the mean over the folds. Outcomes:
    dataset, direction, query (row of the picture or of the caption), image (row of the picture it belongs to), rank.
    Raises PipelineError for a k above the size of a gallery.
    """
    scores, outcomes = {}, []
    for dataset in features.datasets_with("test/caption"):
        image = features.matrix(f"{dataset}/test/image")
        caption = features.matrix(f"{dataset}/test/caption")
        caption_image = features.indices(f"{dataset}/test/caption_image", rows=len(caption), below=len(image))
        for folds in sorted({1, features.folds(dataset) or 1}):
            name = dataset if folds == 1 else folds_name(dataset, len(image), folds)
            measured, ranks = fold_recalls(image, caption, caption_image, folds, recall_at, title=name)
            scores[name] = features.facts(dataset, "test") | {"metric": "recall"} | measured
            outcomes.append(ranks.assign(dataset=name))
    return evaluation_of(scores, outcomes, COLUMNS, features.holes(TASK))


def folds_name(dataset: str, n_images: int, folds: int) -> str:
    """What the entry of a set's folds is called: `mscoco_1k_folds` for folds of 1,000 pictures."""
    size = n_images // folds
    return f"{dataset}_{size // 1000}k_folds" if size % 1000 == 0 else f"{dataset}_{size}_folds"


def fold_recalls(
    image: Floats, caption: Floats, caption_image: Integers, folds: int, recall_at: Sequence[int], *, title: str
) -> tuple[dict[str, Score], pd.DataFrame]:
    """Recalls as means over `folds` equal runs of consecutive pictures, and the ranks within each.

    `n` pictures and `n_captions` are those of all folds, `n_images` is a fold's gallery. Raises PipelineError for a
    number of pictures that does not divide, a fold without captions and a k above the size of a gallery.
    """
    if len(image) % folds:
        raise PipelineError(f"{title}: {len(image)} pictures do not fall into {folds} equal folds")
    size, measured, outcomes = len(image) // folds, [], []
    for start in range(0, len(image), size):
        own = np.flatnonzero((caption_image >= start) & (caption_image < start + size))
        _require_gallery(title, min(size, len(own)), recall_at)
        owner = caption_image[own] - start
        ranks = retrieval_ranks(image[start : start + size], caption[own], owner, title=f"retrieval {title}")
        measured.append(recall_scores(ranks, owner, size, recall_at))
        to_text = ranks["direction"] == IMAGE_TO_TEXT
        ranks["query"] = np.where(to_text, ranks["query"] + start, own[np.where(to_text, 0, ranks["query"])])
        outcomes.append(ranks.assign(image=ranks["image"] + start))
    counts = {name: sum(int(fold.pop(name)) for fold in measured) for name in ("n_captions", "n_image_queries")}
    means: dict[str, Score] = {name: float(np.mean([fold[name] for fold in measured])) for name in measured[0]}
    means |= counts | {"n": len(image), "n_images": size, "folds": folds}
    return means, pd.concat(outcomes, ignore_index=True)


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
