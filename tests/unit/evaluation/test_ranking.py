from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline_steps.evaluation import ranking
from pipeline_steps.evaluation.ranking import rank_matches
from tests.oracles.ranking import inner_product, rank_of
from tests.results_tree import unit

small_rows = hnp.arrays(np.int8, (7, 3), elements=st.integers(-2, 2)).map(lambda rows: rows.astype(np.float32))


IN_SINGLE, IN_DOUBLE = 10.0, -10.0


@pytest.fixture(params=[IN_SINGLE, IN_DOUBLE], ids=["single", "double"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to rank a chunk, whatever its values."""
    monkeypatch.setattr(ranking, "_LARGEST_UNSURE_SHARE", request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=small_rows, gallery=small_rows, entries=st.sampled_from([1, 7, 14, 23, 1000]))
@pytest.mark.usefixtures("_way")
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


def test_a_query_without_a_match_is_refused() -> None:
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match="no gallery row has the id 7"):
        rank_matches(rows, rows, np.array([0, 7, 2]), np.arange(3))


@pytest.mark.usefixtures("_way")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([1.0, 1e-2, 1e-4, 1e-6, 0.0]), chunk=st.sampled_from([1, 90]))
def test_embeddings_that_hardly_differ_rank_as_their_exact_products(seed: int, spread: float, chunk: int) -> None:
    random = np.random.default_rng(seed)
    centre = random.normal(size=48)
    query, gallery = (unit(centre + spread * random.normal(size=(count, 48))) for count in (6, 30))
    gallery[11] = gallery[4]
    query_id, gallery_id = random.integers(0, 5, size=6), np.arange(30) % 5
    found = rank_matches(query, gallery, query_id, gallery_id, entries_at_once=chunk)
    exact = (query.astype(np.float64)[:, None, :] * gallery.astype(np.float64)).sum(axis=2).astype(np.float32)
    for row, similarities in enumerate(exact.tolist()):
        ranks = [rank_of(similarities, index) for index in np.flatnonzero(gallery_id == query_id[row])]
        assert abs(found.rank[row] - min(ranks)) <= (spread < 1e-4)
        assert similarities[found.nearest[row]] >= max(similarities) - 2e-7


@pytest.mark.usefixtures("_way")
def test_equal_vectors_tie_whatever_their_place_in_a_chunk() -> None:
    random = np.random.default_rng(0)
    gallery = np.repeat(random.normal(size=(1, 37)), 45, axis=0).astype(np.float32)
    query = random.normal(size=(9, 37)).astype(np.float32)
    for entries in (1, 100, 10_000):
        found = rank_matches(query, gallery, np.arange(9) + 20, np.arange(45), entries_at_once=entries)
        assert found.rank.tolist() == list(range(21, 30))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("entries", [1, 50, 10**6])
def test_chunks_do_not_change_ranks_of_random_features(entries: int) -> None:
    random = np.random.default_rng(1)
    query, gallery = (random.normal(size=(40, 8)).astype(np.float32) for _ in range(2))
    whole = rank_matches(query, gallery, np.arange(40), np.arange(40))
    chunked = rank_matches(query, gallery, np.arange(40), np.arange(40), entries_at_once=entries)
    assert np.array_equal(whole.rank, chunked.rank)
