from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig
from pipeline_steps.methods.ncu.transport import masked_plan, sinkhorn, transport_cost, transport_mask
from tests.unit.methods.batches import batch

OFFICIAL = TransportConfig(epsilon=0.03, normalize_cost=True, max_iterations=5000, tolerance=1e-5)


def _similarity(rows: int, match: float = 0.5) -> torch.Tensor:
    image, text, negative = batch(rows, 32, match)
    return torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1).float()


def _forget(rows: int, count: int) -> torch.Tensor:
    return torch.arange(rows) < count


def test_mask_is_equation_8() -> None:
    mask = transport_mask(torch.tensor([True, False, False]))
    assert mask.int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_cost_is_one_minus_cosine_and_normalised_on_request() -> None:
    sim = torch.tensor([[1.0, 0.0], [-0.5, 0.5]])
    assert transport_cost(sim, normalize=False).tolist() == [[0, 1], [1.5, 0.5]]
    assert transport_cost(sim, normalize=True).max() == 1


@pytest.mark.parametrize("match", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rows", [2, 64, 256])
def test_marginals_hold_and_masked_places_stay_empty(rows: int, normalize: bool, match: float) -> None:
    sim, forget = _similarity(rows, match), _forget(rows, max(1, rows // 10))
    config = TransportConfig(epsilon=0.03, normalize_cost=normalize, max_iterations=20000, tolerance=1e-5)
    solved = masked_plan(sim, forget, config)
    assert solved.marginal_error < 2e-5
    torch.testing.assert_close(solved.plan_NM.sum(dim=1), torch.full((rows,), 1 / rows), rtol=2e-5, atol=0)
    torch.testing.assert_close(solved.plan_NM.sum(dim=0), torch.full((rows + 1,), 1 / (rows + 1)), rtol=2e-5, atol=0)
    assert (solved.plan_NM[~transport_mask(forget)] == 0).all()
    assert (solved.plan_NM >= 0).all()


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 1.0])
def test_plan_equals_an_independent_solver(epsilon: float) -> None:
    rows = 40
    sim, forget = _similarity(rows), _forget(rows, 5)
    config = TransportConfig(epsilon=epsilon, normalize_cost=True, max_iterations=50000, tolerance=1e-7)
    found = sinkhorn(transport_cost(sim.double(), normalize=True).double(), transport_mask(forget), config).plan_NM
    cost = (1 - sim.double()) / (1 - sim.double()).max()
    blocked = torch.where(transport_mask(forget), cost, 1e3).numpy()
    expected = ot.sinkhorn(
        np.full(rows, 1 / rows), np.full(rows + 1, 1 / (rows + 1)), blocked, epsilon,
        method="sinkhorn_log", numItermax=100000, stopThr=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6 / rows)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 24), count=st.integers(0, 24), epsilon=st.sampled_from([0.02, 0.05, 0.5]))
def test_any_forget_set_is_solved_with_exact_marginals(rows: int, count: int, epsilon: float) -> None:
    forget = _forget(rows, min(count, rows))
    config = TransportConfig(epsilon=epsilon, normalize_cost=True, max_iterations=50000, tolerance=1e-4)
    solved = masked_plan(_similarity(rows), forget, config)
    assert solved.marginal_error < 2e-4
    assert solved.plan_NM.shape == (rows, rows + 1)
    if not forget.any():
        assert (solved.plan_NM[:, -1] == 0).all()
        torch.testing.assert_close(solved.plan_NM.sum(dim=0)[:-1], torch.full((rows,), 1 / rows), rtol=2e-4, atol=0)


def test_a_small_epsilon_moves_to_float64_and_a_tiny_one_is_refused_with_the_allowed_one() -> None:
    sim, forget = _similarity(32), _forget(32, 4)
    small = TransportConfig(epsilon=0.004, normalize_cost=True, max_iterations=100000, tolerance=1e-4)
    assert masked_plan(sim, forget, small).marginal_error < 2e-4
    tiny = TransportConfig(epsilon=0.0005, normalize_cost=True, max_iterations=10, tolerance=1e-4)
    with pytest.raises(PipelineError, match="epsilon = 0.0005 is too small.*allowed: at least"):
        masked_plan(sim, forget, tiny)


def test_one_pair_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match="a batch of 1 pair"):
        masked_plan(torch.zeros(1, 2), torch.tensor([False]), OFFICIAL)


def test_collapsed_embeddings_are_solved_and_non_finite_ones_refused() -> None:
    forget = _forget(8, 2)
    collapsed = masked_plan(torch.ones(8, 9), forget, OFFICIAL)
    assert collapsed.marginal_error < 1e-4
    with pytest.raises(PipelineError, match="transport plan is not finite"):
        masked_plan(torch.full((8, 9), torch.nan), forget, OFFICIAL)


def test_over_relaxation_beats_plain_iterations_on_a_structured_batch() -> None:
    sim, forget = _similarity(256, 0.8), _forget(256, 25)
    config = TransportConfig(epsilon=0.03, normalize_cost=False, max_iterations=20000, tolerance=1e-5)
    kernel = torch.where(transport_mask(forget), torch.exp(-(1 - sim) / 0.03), 0.0).double()
    u, v, plain = torch.ones(256).double(), torch.ones(257).double(), 0
    while (u * (kernel @ v) * 256 - 1).abs().max() > 1e-5:
        u = 1 / (256 * (kernel @ v))
        v = 1 / (257 * (u @ kernel))
        plain += 1
    assert masked_plan(sim, forget, config).iterations < plain / 2
