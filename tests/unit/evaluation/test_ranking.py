from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline_steps.evaluation.ranking import rank_matches
from tests.oracles.ranking import inner_product, rank_of

small_rows = hnp.arrays(np.int8, (7, 3), elements=st.integers(-2, 2)).map(lambda rows: rows.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(query=small_rows, gallery=small_rows, entries=st.sampled_from([1, 7, 14, 23, 1000]))
def test_ranks_with_many_ties_are_those_of_plain_loops_for_any_chunk(
    query: np.ndarray, gallery: np.ndarray, entries: int
) -> None:
    target = np.array([3, 3, 0, 6, 1, 5, 2])
    found = rank_matches(query, gallery, target, np.arange(7), entries_at_once=entries)
    similarities = [[inner_product(row, other) for other in gallery] for row in query]
    assert found.rank.tolist() == [rank_of(row, int(t)) for row, t in zip(similarities, target, strict=True)]
    assert found.nearest.tolist() == [row.index(max(row)) for row in similarities]


def test_the_best_of_several_matches_counts() -> None:
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    gallery = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2]], dtype=np.float32)
    found = rank_matches(query, gallery, np.array([5]), np.array([4, 5, 5]))
    assert found.rank.tolist() == [2]


def test_equal_vectors_tie_whatever_their_place_in_a_chunk() -> None:
    random = np.random.default_rng(0)
    gallery = np.repeat(random.normal(size=(1, 37)), 45, axis=0).astype(np.float32)
    query = random.normal(size=(9, 37)).astype(np.float32)
    for entries in (1, 100, 10_000):
        found = rank_matches(query, gallery, np.arange(9) + 20, np.arange(45), entries_at_once=entries)
        assert found.rank.tolist() == list(range(21, 30))


@pytest.mark.parametrize("entries", [1, 50, 10**6])
def test_chunks_do_not_change_ranks_of_random_features(entries: int) -> None:
    random = np.random.default_rng(1)
    query, gallery = (random.normal(size=(40, 8)).astype(np.float32) for _ in range(2))
    whole = rank_matches(query, gallery, np.arange(40), np.arange(40))
    chunked = rank_matches(query, gallery, np.arange(40), np.arange(40), entries_at_once=entries)
    assert np.array_equal(whole.rank, chunked.rank)
