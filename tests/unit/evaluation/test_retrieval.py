from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.retrieval import (
    chance_of_any,
    evaluate_retrieval,
    recall_scores,
    retrieval_ranks,
)
from pipeline_steps.evaluation.scores import measures
from tests.oracles.ranking import recalls
from tests.results_tree import TEST, unit, write_features


def _random_set(seed: int, images: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    owner = random.integers(0, images, size=int(random.integers(10, 30)))
    image = unit(random.normal(size=(images, 6)))
    return image, unit(image[owner] + random.normal(size=(len(owner), 6))), owner


@pytest.mark.parametrize("seed", range(5))
def test_recalls_are_those_of_the_full_matrix(seed: int) -> None:
    image, caption, owner = _random_set(seed)
    found = measures(recall_scores(retrieval_ranks(image, caption, owner), owner, len(image), (1, 5, 10)))
    assert found == pytest.approx(recalls(image, caption, owner, (1, 5, 10)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_recall_grows_with_k_and_ends_at_one(seed: int) -> None:
    image, caption, owner = _random_set(seed)
    ks = range(1, min(len(image), len(caption)) + 1)
    found = recall_scores(retrieval_ranks(image, caption, owner), owner, len(image), ks)
    for direction, size in (("image_to_text", len(caption)), ("text_to_image", len(image))):
        curve = [found[f"{direction}_recall@{k}"] for k in ks]
        chance = [found[f"chance_{direction}_recall@{k}"] for k in ks]
        assert curve == sorted(curve)
        assert chance == sorted(chance)
        assert ks[-1] < size or curve[-1] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_pictures_and_captions_does_not_matter(seed: int) -> None:
    image, caption, owner = _random_set(seed)
    random = np.random.default_rng(seed)
    images, captions = random.permutation(len(image)), random.permutation(len(caption))
    place = np.argsort(images)
    here = recall_scores(retrieval_ranks(image, caption, owner), owner, len(image), (1, 3))
    moved = place[owner[captions]]
    there = recall_scores(retrieval_ranks(image[images], caption[captions], moved), moved, len(image), (1, 3))
    assert here == pytest.approx(there)


def test_chance_is_the_share_over_every_possible_draw() -> None:
    owner, k = [0, 0, 0, 1, 2, 2], 2
    draws = list(combinations(range(6), k))
    hits = [[any(owner[index] == query for index in drawn) for drawn in draws] for query in range(3)]
    assert chance_of_any(np.array([3, 1, 2]), 6, k) == pytest.approx(np.mean(hits))
    assert chance_of_any(np.array([5]), 6, 3) == 1


def test_a_picture_without_caption_is_in_the_gallery_and_asks_nothing(tmp_path: Path) -> None:
    write_features(tmp_path / "f.safetensors", signal=0.3)
    found = evaluate_retrieval(FeatureFile(tmp_path / "f.safetensors"), recall_at=(1, 5, 10))
    scores, outcomes = found.scores["openclipart"], found.outcomes
    captioned = [row for row in range(TEST) if row % 7]
    asked = outcomes.loc[outcomes["direction"] == "image_to_text"]
    assert asked["query"].tolist() == asked["image"].tolist() == captioned
    assert scores["n_images"] == TEST
    assert scores["n_image_queries"] == len(captioned)
    assert scores["chance_text_to_image_recall@5"] == 5 / TEST
    assert scores["mean_recall"] > scores["chance_mean_recall"]


def test_k_above_a_gallery_is_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "f.safetensors", signal=0.3)
    with pytest.raises(PipelineError, match=r"eval_retrieval\.recall_at asks for recall@500 of openclipart"):
        evaluate_retrieval(FeatureFile(tmp_path / "f.safetensors"), recall_at=(1, 500))
