from __future__ import annotations

import pytest
import torch

from pipeline_steps.methods.ncu.targets import alignment_targets, identity_like
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
