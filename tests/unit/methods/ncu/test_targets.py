from __future__ import annotations

import pytest
import torch

from pipeline_steps.methods.ncu.targets import (
    alignment_targets,
    identity_like,
    mass_on_negative,
    one_hot_when_retained,
)
from tests.oracles import ncu_losses as oracle

FORGET = torch.tensor([False, True, False, True])


def _plan() -> torch.Tensor:
    plan = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return plan / plan.sum()


def test_identity_moves_forget_rows_to_the_last_column() -> None:
    assert identity_like(FORGET).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("order", ["paper", "official"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.0])
def test_targets_equal_a_plain_loop_and_are_distributions(order: str, gamma: float) -> None:
    found = alignment_targets(_plan(), FORGET, gamma, order)  # type: ignore[arg-type]
    expected = oracle.targets(_plan().tolist(), FORGET.tolist(), gamma, order)
    for matrix, rows in zip(found, expected, strict=True):
        torch.testing.assert_close(matrix, torch.tensor(rows, dtype=torch.float64))
        sums = matrix.sum(dim=1)
        assert torch.allclose(sums[sums > 0], torch.ones_like(sums[sums > 0]))
    if gamma > 0:
        assert (found[1].sum(dim=1) > 0).all()


def test_paper_order_all_but_drops_the_plan_in_a_large_batch() -> None:
    size = 512
    plan = torch.full((size, size + 1), 1 / (size * (size + 1)))
    forget = torch.zeros(size, dtype=torch.bool)
    forget[:51] = True
    paper, _ = alignment_targets(plan, forget, 0.7, "paper")
    official, _ = alignment_targets(plan, forget, 0.7, "official")
    assert paper[100, 100] > 0.99
    assert official[100, 100] == pytest.approx(0.3, abs=0.01)


def test_without_a_forget_set_the_last_target_row_stays_empty() -> None:
    plan = torch.nn.functional.pad(torch.full((4, 4), 1 / 16), (0, 1))
    _, text_to_image = alignment_targets(plan, torch.zeros(4, dtype=torch.bool), 0.7, "official")
    assert text_to_image[4].sum() == 0
    assert torch.allclose(text_to_image[:4].sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("order", ["paper", "official"])
def test_the_official_text_to_image_target_is_the_mix_as_it_is(order: str) -> None:
    found = alignment_targets(_plan(), FORGET, 0.7, order, text_to_image="official")  # type: ignore[arg-type]
    expected = oracle.targets(_plan().tolist(), FORGET.tolist(), 0.7, order, "official")
    for matrix, rows in zip(found, expected, strict=True):
        torch.testing.assert_close(matrix, torch.tensor(rows, dtype=torch.float64))
    assert torch.allclose(found[0].sum(dim=1), torch.ones(4, dtype=torch.float64))


def test_the_official_last_row_sums_to_61_9_and_those_of_forgotten_captions_to_gamma() -> None:
    size, forgotten = 2048, 204
    plan = torch.full((size, size + 1), 1 / (size * (size + 1)))
    forget = torch.zeros(size, dtype=torch.bool)
    forget[:forgotten] = True
    _, official = alignment_targets(plan, forget, 0.7, "official", text_to_image="official")
    sums = official.sum(dim=1)
    assert sums[-1].item() == pytest.approx(61.9, abs=0.01)
    assert torch.allclose(sums[:forgotten], torch.full((forgotten,), 0.7))
    assert torch.allclose(sums[forgotten:-1], torch.ones(size - forgotten))
    _, distribution = alignment_targets(plan, forget, 0.7, "official", text_to_image="distribution")
    assert torch.allclose(distribution.sum(dim=1), torch.ones(size + 1))


@pytest.mark.parametrize("order", ["paper", "official"])
def test_a_second_plan_serves_text_to_image_alone(order: str) -> None:
    other = _plan().T.roll(1, dims=1)
    one = alignment_targets(_plan(), FORGET, 0.7, order)  # type: ignore[arg-type]
    same = alignment_targets(_plan(), FORGET, 0.7, order, plan_MN=_plan().T)  # type: ignore[arg-type]
    two = alignment_targets(_plan(), FORGET, 0.7, order, plan_MN=other)  # type: ignore[arg-type]
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], same[1])
    assert not torch.allclose(one[1], two[1])
    torch.testing.assert_close(two[1], alignment_targets(other.T, FORGET, 0.7, order)[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["paper", "official"])
def test_false_positives_only_keeps_one_hot_targets_on_retained_rows_both_ways(order: str) -> None:
    plans = one_hot_when_retained(_plan(), _plan().T, FORGET)
    assert torch.allclose(plans[0].sum(dim=1), _plan().sum(dim=1))
    both = alignment_targets(_plan(), FORGET, 0.7, order)  # type: ignore[arg-type]
    found = alignment_targets(plans[0], FORGET, 0.7, order, plan_MN=plans[1])  # type: ignore[arg-type]
    identity = identity_like(FORGET).double()
    retained = ~FORGET
    assert torch.allclose(found[0][retained], identity[retained])
    assert torch.allclose(found[1][:4][retained], identity.T[:4][retained])
    assert torch.allclose(found[0][FORGET], both[0][FORGET])
    assert torch.allclose(found[1][:4][FORGET], both[1][:4][FORGET])
    assert torch.allclose(found[1][4], both[1][4])


def test_mass_on_negative_is_the_mean_share_of_the_forget_rows() -> None:
    plan = torch.tensor([[0.1, 0.1, 0.0], [0.0, 0.1, 0.1]])
    assert mass_on_negative(plan, torch.tensor([False, True])).item() == pytest.approx(0.5)
    assert mass_on_negative(plan[:, [0, 1, 2]] * torch.tensor([1, 1, 0]), torch.zeros(2, dtype=torch.bool)).item() == 0
