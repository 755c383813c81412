from __future__ import annotations

import pytest
import torch

from pipeline_steps.core.schema import ForgetSetConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.ncu.forget_set import clean_confidence, forget_mask, pick_forget_set
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import batch, unit_vectors


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
        settings = ForgetSetConfig(fraction=0.25, direction="i2t", softmax="stable", selection=selection)  # type: ignore[arg-type]
        found = pick_forget_set(sim, embeddings, settings)
        return found.forget_N.tolist(), found.confidence_N.tolist()

    drawn, confidence = pick(3, "random")
    assert sum(drawn) == 10
    assert drawn == pick(3, "random", sim.flip(0))[0]
    assert drawn != pick(4, "random")[0]
    assert drawn != pick(3, "confidence")[0]
    assert pick(3, "confidence")[0] == pick(4, "confidence")[0]
    assert confidence == pick(4, "confidence")[1]
