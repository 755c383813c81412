from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation import retrieval
from pipeline_steps.evaluation.features.index import Features, SetFacts, SplitFacts
from pipeline_steps.evaluation.ranking import rank_matches
from pipeline_steps.evaluation.retrieval import (
    chance_of_any,
    evaluate_retrieval,
    folds_name,
    recall_scores,
    retrieval_ranks,
)
from pipeline_steps.evaluation.scores import Evaluation, measures
from tests.feature_tree import write_index
from tests.oracles.ranking import recalls
from tests.results_tree import TEST, unit, write_features


def _random_set(seed: int, images: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    owner = random.integers(0, images, size=int(random.integers(10, 30)))
    image = unit(random.normal(size=(images, 6)))
    return image, unit(image[owner] + random.normal(size=(len(owner), 6))), owner


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), entries=st.sampled_from([1, 15, 40, 77, 10**6]))
def test_recalls_in_chunks_are_those_of_the_full_matrix_for_any_number_of_captions(
    seed: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "rank_matches", partial(rank_matches, entries_at_once=entries))
    image, caption, owner = _random_set(seed)
    found = measures(recall_scores(retrieval_ranks(image, caption, owner), owner, len(image), (1, 5, 10)))
    assert found == pytest.approx(recalls(image, caption, owner, (1, 5, 10)))


def _folded(tmp_path: Path, folds: int | None) -> Evaluation:
    """12 pictures, picture n with n % 4 captions."""
    owner = np.repeat(np.arange(12), np.arange(12) % 4)
    random = np.random.default_rng(5)
    image = unit(random.normal(size=(12, 6)))
    caption = unit(0.7 * image[owner] + unit(random.normal(size=(len(owner), 6))))
    facts = SetFacts("Pictures", ("retrieval",), "recall", "karpathy: here", "1", folds=folds,
                     splits={"test": SplitFacts("test", 12, "")})  # fmt: skip
    hole = SetFacts("Gone", ("retrieval",), "recall", None, "1", hole="ask for it")
    tensors = {"set/test/image": image, "set/test/caption": caption, "set/test/caption_image": owner}
    write_index(tmp_path / "f.json", tensors, {"set": facts, "gone": hole})
    return evaluate_retrieval(Features(tmp_path / "f.json"), recall_at=(1, 3))


def test_folds_are_galleries_of_their_own_and_their_recalls_are_averaged(tmp_path: Path) -> None:
    found = _folded(tmp_path, 3)
    assert set(found.scores) == {"set", "set_4_folds", "gone"}
    assert found.scores["gone"] == {"hole": "ask for it"}
    features = Features(tmp_path / "f.json")
    image, caption = features.matrix("set/test/image"), features.matrix("set/test/caption")
    owner = np.repeat(np.arange(12), np.arange(12) % 4)
    parts = []
    for start in (0, 4, 8):
        own = (owner >= start) & (owner < start + 4)
        parts.append(recalls(image[start : start + 4], caption[own], owner[own] - start, (1, 3)))
    scores = found.scores["set_4_folds"]
    assert measures(scores) == pytest.approx({name: np.mean([part[name] for part in parts]) for name in parts[0]})
    assert {"n": 12, "n_images": 4, "folds": 3, "n_captions": 18, "n_image_queries": 9}.items() <= scores.items()
    assert scores["chance_text_to_image_recall@3"] == 3 / 4
    outcomes = found.outcomes[found.outcomes["dataset"] == "set_4_folds"]
    to_image = outcomes[outcomes["direction"] == "text_to_image"]
    assert to_image["query"].tolist() == list(range(18))
    assert to_image["image"].tolist() == owner.tolist()
    assert outcomes["rank"][outcomes["direction"] == "text_to_image"].max() <= 4
    to_text = outcomes[outcomes["direction"] == "image_to_text"]
    assert to_text["query"].tolist() == to_text["image"].tolist() == [row for row in range(12) if row % 4]


def test_without_folds_there_is_one_entry_and_folds_of_a_thousand_are_called_so(tmp_path: Path) -> None:
    assert set(_folded(tmp_path, None).scores) == {"set", "gone"}
    assert folds_name("mscoco", 5000, 5) == "mscoco_1k_folds"
    with pytest.raises(PipelineError, match="12 pictures do not fall into 5 equal folds"):
        _folded(tmp_path, 5)


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
    write_features(tmp_path / "f.json", signal=0.3)
    found = evaluate_retrieval(Features(tmp_path / "f.json"), recall_at=(1, 5, 10))
    scores, outcomes = found.scores["openclipart"], found.outcomes
    captioned = [row for row in range(TEST) if row % 7]
    asked = outcomes.loc[outcomes["direction"] == "image_to_text"]
    assert asked["query"].tolist() == asked["image"].tolist() == captioned
    assert scores["n_images"] == TEST
    assert scores["n_image_queries"] == len(captioned)
    assert scores["chance_text_to_image_recall@5"] == 5 / TEST
    assert scores["mean_recall"] > scores["chance_mean_recall"]


def test_k_above_a_gallery_is_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "f.json", signal=0.3)
    with pytest.raises(PipelineError, match=r"eval_retrieval\.recall_at asks for recall@500 of openclipart"):
        evaluate_retrieval(Features(tmp_path / "f.json"), recall_at=(1, 500))
