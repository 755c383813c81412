from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.schema import ForgetSetConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.contrastive import contrastive_loss_N
from pipeline_steps.methods.ncu.forget_set import (
    clean_confidence,
    forget_mask,
    pair_consistency,
    pick_forget_set,
    small_loss_score,
)
from pipeline_steps.methods.npc.mixture import clean_probability
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import MIXTURE, batch, unit_vectors


@pytest.mark.parametrize("direction", ["symmetric", "i2t"])
def test_confidence_equals_equation_2_in_a_plain_loop(direction: str) -> None:
    image, text, _ = batch(8)
    found = clean_confidence(image @ text.T, torch.tensor(10.0), direction)  # type: ignore[arg-type]
    expected = oracle.clean_confidence(image.tolist(), text.tolist(), 10.0, direction)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_confidence_is_finite_where_the_official_quotient_overflows() -> None:
    sim = torch.full((4, 4), 0.95) + 0.04 * torch.eye(4)
    scale = torch.tensor(100.0)
    assert not torch.isfinite((scale * sim).exp()).all()
    confidence = clean_confidence(sim, scale, "symmetric")
    assert torch.isfinite(confidence).all()
    assert (confidence > 0.9).all()


def test_mask_takes_the_floor_of_the_share_with_lowest_confidence() -> None:
    confidence = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8, 0.7, 0.6, 0.4, 0.3, 0.95, 0.99])
    assert forget_mask(confidence, 0.2).nonzero().flatten().tolist() == [1, 3]
    assert forget_mask(confidence, 0.05).sum() == 0
    assert forget_mask(torch.arange(100.0), 0.29).sum() == 29


def test_mask_breaks_ties_by_position() -> None:
    assert forget_mask(torch.zeros(6), 0.5).tolist() == [True, True, True, False, False, False]


def test_mismatched_pairs_get_lower_confidence() -> None:
    image = unit_vectors(64, 16, 1)
    text = image.clone()
    text[:8] = text[:8].roll(1, dims=0)
    mask = forget_mask(clean_confidence(image @ text.T, torch.tensor(20.0), "symmetric"), 8 / 64)
    assert mask.nonzero().flatten().tolist() == list(range(8))


@pytest.mark.parametrize("softmax", ["stable", "official"])
@pytest.mark.parametrize("direction", ["symmetric", "i2t"])
def test_both_softmaxes_agree_where_nothing_overflows(direction: str, softmax: str) -> None:
    image, text, _ = batch(8)
    found = clean_confidence(image @ text.T, torch.tensor(80.0), direction, softmax)  # type: ignore[arg-type]
    expected = oracle.clean_confidence(image.tolist(), text.tolist(), 80.0, direction)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_official_softmax_overflows_at_scale_100_above_a_cosine_of_0_887() -> None:
    scale = torch.tensor(100.0)
    for cosine, overflows in ((0.887, False), (0.888, True)):
        sim = torch.full((4, 4), 0.1) + (cosine - 0.1) * torch.eye(4)
        official = clean_confidence(sim, scale, "i2t", "official")
        assert bool(official.isnan().all()) is overflows
        assert (clean_confidence(sim, scale, "i2t", "stable") == 1).all()
        if not overflows:
            assert (official == 1).all()


def test_official_softmax_is_zero_where_only_another_caption_overflows() -> None:
    sim = torch.tensor([[0.5, 0.95], [0.1, 0.5]])
    assert clean_confidence(sim, torch.tensor(100.0), "i2t", "official").tolist() == [0, 1]


def test_pairs_that_overflow_are_picked_last_as_by_the_official_topk() -> None:
    confidence = torch.tensor([0.9, float("nan"), 0.5, float("nan"), 0.8, 0.7, 0.0, 0.4, float("nan"), 0.95])
    for fraction in (0.2, 0.5, 0.7, 0.8):
        official = confidence.topk(int(fraction * 10), largest=False).indices
        picked = forget_mask(confidence, fraction)
        expected = confidence[official].isnan().sum()
        assert confidence[picked].isnan().sum() == expected
        if not expected:
            assert sorted(picked.nonzero().flatten().tolist()) == sorted(official.tolist())


def test_random_selection_draws_as_many_pairs_by_the_steps_seed_alone() -> None:
    image, text, _ = batch(40)
    sim, scale = image @ text.T, torch.tensor(10.0)

    def pick(seed: int, selection: str, sim: torch.Tensor = sim) -> tuple[list[bool], list[float]]:
        embeddings = Embeddings(image, text, scale, step_seed=seed)
        settings = ForgetSetConfig(
            fraction=0.25, direction="i2t", softmax="stable", selection=selection, mixture=MIXTURE
        )  # type: ignore[arg-type]
        found = pick_forget_set(sim, embeddings, settings)
        return found.forget_N.tolist(), found.confidence_N.tolist()

    drawn, confidence = pick(3, "random")
    assert sum(drawn) == 10
    assert drawn == pick(3, "random", sim.flip(0))[0]
    assert drawn != pick(4, "random")[0]
    assert drawn != pick(3, "confidence")[0]
    assert pick(3, "confidence")[0] == pick(4, "confidence")[0]
    assert confidence == pick(4, "confidence")[1]


def test_small_loss_is_the_mixtures_probability_and_picks_as_many_pairs() -> None:
    image, text, _ = batch(40)
    text[::4] = text[::4].roll(1, dims=0)
    embeddings = Embeddings(image, text, torch.tensor(8.0, dtype=torch.float64), step_seed=2**40 + 3)
    sim = image @ text.T
    found = {}
    for changed in ({}, {"max_iterations": 1}, {"tolerance": 1e3}, {"covariance_floor": 10.0}):
        settings = ForgetSetConfig(0.25, "symmetric", "stable", "small_loss", replace(MIXTURE, **changed))
        picked = pick_forget_set(sim, embeddings, settings)
        found[str(changed)] = picked.confidence_N
        losses = contrastive_loss_N(sim, embeddings.logit_scale)
        expected = torch.from_numpy(clean_probability(losses.numpy(), settings.mixture, (2**40 + 3) % 2**32))
        torch.testing.assert_close(picked.confidence_N.double(), expected, atol=2e-4, rtol=0)
        assert int(picked.forget_N.sum()) == 10
        worst = set(picked.confidence_N.argsort()[:10].tolist())
        assert set(picked.forget_N.nonzero().ravel().tolist()) == worst
    assert not torch.equal(found["{}"], found["{'covariance_floor': 10.0}"])


def test_small_loss_without_a_mixture_goes_by_the_loss() -> None:
    same = small_loss_score(torch.ones(6), MIXTURE, 0)
    assert same.tolist() == [0.5] * 6
    broken = small_loss_score(torch.tensor([1.0, torch.inf, 3.0]), MIXTURE, 0)
    assert broken.tolist() == [0.5, 0.0, 0.25]


def test_consistency_compares_a_pair_with_the_best_one() -> None:
    image, text, _ = batch(12)
    scale, sim = torch.tensor(7.0, dtype=torch.float64), image @ text.T
    for direction in ("i2t", "symmetric"):
        found = pair_consistency(sim, scale, direction)
        for own in range(12):
            to_text = sim[own].mul(7).softmax(0)
            to_image = sim[:, own].mul(7).softmax(0)
            ratios = [float(one[own] / one.max()) for one in (to_text, to_image)]
            expected = ratios[0] if direction == "i2t" else sum(ratios) / 2
            assert float(found[own]) == pytest.approx(expected, rel=1e-4)
    assert bool(((found > 0) & (found <= 1)).all())
