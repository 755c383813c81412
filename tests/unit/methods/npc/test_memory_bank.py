from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from sklearn.mixture import GaussianMixture

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import MixtureConfig
from pipeline_steps.methods.npc.memory_bank import nearest_clean, pair_losses
from pipeline_steps.methods.npc.mixture import clean_probability
from tests.oracles import npc as oracle

MIXTURE = MixtureConfig(max_iterations=100, tolerance=1e-2, covariance_floor=5e-4)


def _unit(rows: int, seed: int, width: int = 8) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_losses_are_those_of_random_batches_of_which_none_is_small() -> None:
    image, text = _unit(11, 1), _unit(11, 2)
    found = pair_losses(image, text, logit_scale=5.0, batch_size=5, seed=3)
    order = np.random.default_rng(3).permutation(11)
    for rows in (order[:6], order[6:]):
        expected = oracle.pair_losses(torch.from_numpy(image[rows]), torch.from_numpy(text[rows]), 5.0)
        assert found[rows].tolist() == pytest.approx([float(one) for one in expected], abs=1e-5)
    assert (pair_losses(image, text, logit_scale=5.0, batch_size=99, seed=3) > 0).all()


def test_the_component_of_lower_mean_is_the_clean_one() -> None:
    generator = np.random.default_rng(0)
    losses = np.concatenate([generator.normal(5, 0.5, 200), generator.normal(1, 0.3, 300)])
    found = clean_probability(losses, MIXTURE, 0)
    assert (found[:200] < 0.1).all()
    assert (found[200:] > 0.9).mean() > 0.99
    assert (clean_probability(losses, MIXTURE, 0) == found).all()


@pytest.mark.parametrize("changed", [{"max_iterations": 1}, {"tolerance": 1e-9}, {"covariance_floor": 5.0}], ids=str)
def test_the_mixture_is_scikit_learns_with_every_key(changed: dict[str, float]) -> None:
    generator = np.random.default_rng(1)
    losses = np.concatenate([generator.normal(3, 1.5, 200), generator.normal(1, 0.5, 300)])
    settings = replace(MIXTURE, **changed)
    found = clean_probability(losses, settings, 2)
    mixture = GaussianMixture(
        2, max_iter=settings.max_iterations, tol=settings.tolerance, reg_covar=settings.covariance_floor, random_state=2
    ).fit(losses[:, None])
    assert (found == mixture.predict_proba(losses[:, None])[:, int(mixture.means_.argmin())]).all()
    assert (found != clean_probability(losses, MIXTURE, 2)).any()


def test_equal_losses_are_no_mixture() -> None:
    with pytest.raises(PipelineError, match="are all the same"):
        clean_probability(np.ones(5), MIXTURE, 0)


@pytest.mark.parametrize("index", ["auto", "Flat", "HNSW16"])
def test_neighbours_equal_a_plain_loop(index: str) -> None:
    generator = np.random.default_rng(4)
    features, own = _unit(30, 5), np.concatenate([np.arange(30), generator.integers(0, 30, 20)])
    probability = generator.random(50)
    clean = probability > 0.4
    found = nearest_clean(features, own, probability, clean, exclude_self=True, index=index)
    expected = oracle.nearest(features.tolist(), own.tolist(), probability.tolist(), clean.tolist())
    assert found.row_P.tolist() == expected
    assert found.agreement == 1
    assert (own[found.row_P] != own).all()


def test_a_clean_pair_is_its_own_neighbour_unless_it_is_excluded() -> None:
    features, own, probability = _unit(10, 6), np.arange(10), np.linspace(0.1, 1, 10)
    clean = probability > 0.5
    itself = nearest_clean(features, own, probability, clean, exclude_self=False, index="Flat").row_P
    assert itself[clean].tolist() == own[clean].tolist()
    other = nearest_clean(features, own, probability, clean, exclude_self=True, index="Flat").row_P
    assert (other[clean] != own[clean]).all()
    assert (itself[~clean] == other[~clean]).all()


def test_an_approximate_search_says_how_often_it_agrees() -> None:
    features = _unit(3000, 7, width=32)
    own, probability = np.arange(3000), np.ones(3000)
    found = nearest_clean(features, own, probability, probability > 0, exclude_self=True, index="IVF64,Flat")
    exact = nearest_clean(features, own, probability, probability > 0, exclude_self=True, index="Flat")
    assert 0 < found.agreement < 1
    assert found.agreement == pytest.approx((found.row_P == exact.row_P).mean(), abs=0.08)


def test_too_few_clean_pairs_and_an_unknown_index_are_refused() -> None:
    features, own, probability = _unit(4, 8), np.arange(4), np.ones(4)
    with pytest.raises(PipelineError, match="clean_threshold"):
        nearest_clean(features, own, probability, own < 1, exclude_self=True, index="auto")
    with pytest.raises(PipelineError, match="index = 'Nonsense' is no index of faiss"):
        nearest_clean(features, own, probability, own < 3, exclude_self=True, index="Nonsense")
