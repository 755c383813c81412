from __future__ import annotations

import pytest
import torch

from pipeline_steps.methods.ncu.forget_set import clean_confidence, forget_mask
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
