from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig
from pipeline_steps.methods.ncu.transport import TransportPlan, masked_cost, masked_plan
from tests.oracles import sinkhorn as oracle
from tests.unit.methods.batches import batch, unit_vectors

OURS = TransportConfig(
    epsilon=0.03,
    normalize_cost=True,
    solves="one",
    column_marginal="uniform",
    stopping="marginals",
    max_iterations=2000,
    tolerance=1e-5,
)
OFFICIAL = replace(OURS, solves="two", stopping="potentials", max_iterations=100, tolerance=1e-4)


def _similarity(rows: int, match: float = 0.5) -> Tensor:
    image, text, negative = batch(rows, 32, match)
    return torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1).float()


def _trained_similarity(rows: int, match: float, opposite: float) -> Tensor:
    """d = 512; matched cosine `match`, 20% of the captions exchanged, negatives at cosine -`opposite` to captions."""
    image, near, far = (unit_vectors(rows, 512, part, torch.float32) for part in range(3))
    text = match * image + (1 - match**2) ** 0.5 * near
    text[: rows // 5] = text[: rows // 5].roll(1, dims=0)
    text = F.normalize(text, dim=1)
    negative = F.normalize(-opposite * text + (1 - opposite**2) ** 0.5 * far, dim=1)
    return torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1)


def _forget(rows: int, count: int) -> Tensor:
    return torch.arange(rows) < count


def _relative_error(plan: Tensor, row_mass: float, column_mass: float) -> float:
    rows, columns = plan.double().sum(dim=1) / row_mass, plan.double().sum(dim=0) / column_mass
    return float(torch.cat([rows - 1, columns - 1]).abs().max())


def _of_a_sum(rows: int) -> float:
    """How far the solver's own float32 sums of a row or column may be from those in float64: sqrt(n) roundings."""
    return math.sqrt(rows + 1) * 2.0**-24


def _allowed(forget: Tensor) -> Tensor:
    """Eq. 8, entry by entry."""
    size = len(forget)
    mask = torch.ones(size, size + 1, dtype=torch.bool)
    for row in range(size):
        mask[row, row if forget[row] else size] = False
    return mask


def _cost(sim: Tensor, normalize: bool) -> oracle.Array:
    cost = 1 - sim.double().numpy()
    found: oracle.Array = cost / cost.max() if normalize else cost
    return found


def test_cost_is_one_minus_cosine_and_infinite_outside_the_mask_of_equation_8() -> None:
    sim, inf = torch.tensor([[1.0, 0.5, -1.0], [-0.5, 0.5, 0.0]]), torch.inf
    forget = torch.tensor([True, False])
    assert masked_cost(sim, forget, normalize=False).tolist() == [[inf, 0.5, 2.0], [1.5, 0.5, inf]]
    assert masked_cost(sim, forget, normalize=True).tolist() == [[inf, 0.25, 1.0], [0.75, 0.25, inf]]
    assert masked_cost(sim, ~forget, normalize=True).tolist() == [[0.0, 0.25, inf], [0.75, inf, 0.5]]
    assert (masked_cost(_similarity(9), _forget(9, 4), normalize=False).isfinite() == _allowed(_forget(9, 4))).all()


@pytest.mark.parametrize("match", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rows", [2, 64, 256])
def test_marginals_hold_and_masked_places_stay_empty(rows: int, normalize: bool, match: float) -> None:
    sim, forget = _similarity(rows, match), _forget(rows, max(1, rows // 10))
    solved = masked_plan(sim, forget, replace(OURS, normalize_cost=normalize, max_iterations=20000))
    assert solved.marginal_error <= 1e-5
    assert _relative_error(solved.plan_NM, 1 / rows, 1 / (rows + 1)) < 1e-5 + _of_a_sum(rows)
    assert (solved.plan_NM[~_allowed(forget)] == 0).all()
    assert (solved.plan_NM >= 0).all()
    assert solved.seconds > 0


@pytest.mark.parametrize(
    ("fraction", "normalize", "match", "opposite"),
    [
        (0.0005, False, 0.9, 0.5),
        (0.0005, True, 0.6, 0.0),
        (0.1, False, 0.6, 0.5),
        (0.1, True, 0.2, 0.0),
        (0.4, False, 0.2, 0.0),
        (0.4, True, 0.9, 0.5),
    ],
)
def test_the_papers_batch_keeps_its_marginals_to_1e_5(
    fraction: float, normalize: bool, match: float, opposite: float
) -> None:
    """2,048 pairs at epsilon 0.03 in float32; the sums are taken in float64."""
    rows = 2048
    forget = _forget(rows, int(fraction * rows))
    solved = masked_plan(_trained_similarity(rows, match, opposite), forget, replace(OURS, normalize_cost=normalize))
    assert solved.marginal_error <= 1e-5
    assert _relative_error(solved.plan_NM, 1 / rows, 1 / (rows + 1)) < 1e-5 + _of_a_sum(rows)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 24), count=st.integers(0, 24), epsilon=st.sampled_from([0.02, 0.05, 0.5]))
def test_any_forget_set_is_solved_with_exact_marginals(rows: int, count: int, epsilon: float) -> None:
    forget = _forget(rows, min(count, rows))
    solved = masked_plan(
        _similarity(rows), forget, replace(OURS, epsilon=epsilon, max_iterations=50000, tolerance=1e-4)
    )
    assert solved.marginal_error <= 1e-4
    assert solved.plan_NM.shape == (rows, rows + 1)
    if not forget.any():
        assert (solved.plan_NM[:, -1] == 0).all()
        torch.testing.assert_close(solved.plan_NM.sum(dim=0)[:-1], torch.full((rows,), 1 / rows), rtol=2e-4, atol=0)


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_equation_8_leaves_a_plan_for_every_forget_set(rows: int) -> None:
    """Why masked_plan refuses no forget set: the linear program finds a plan for each."""
    for count in range(1, rows + 1):
        allowed = _allowed(_forget(rows, count)).numpy()
        assert oracle.has_plan(allowed, 1 / rows, 1 / (rows + 1)), count
    assert not oracle.has_plan(_allowed(_forget(rows, 0)).numpy(), 1 / rows, 1 / (rows + 1))


@pytest.mark.parametrize("count", [1, 12, 120])
@pytest.mark.parametrize("normalize", [True, False])
def test_stopping_at_resting_potentials_gives_the_official_solvers_plan(count: int, normalize: bool) -> None:
    rows = 120
    sim, forget = _trained_similarity(rows, 0.6, 0.3), _forget(rows, count)
    config = replace(OFFICIAL, normalize_cost=normalize, solves="one")
    found = masked_plan(sim, forget, config)
    cost = _cost(sim, normalize)
    masses = np.full(rows, 1 / rows), np.full(rows + 1, 1 / (rows + 1))
    allowed = _allowed(forget).numpy()
    _, expected = oracle.log_domain(cost, allowed, masses, 0.03, 100, 1e-4)
    assert found.iterations == pytest.approx(expected, abs=1)
    plan, _ = oracle.log_domain(cost, allowed, masses, 0.03, found.iterations)
    np.testing.assert_allclose(found.plan_NM.numpy(), plan, rtol=3e-4, atol=1e-12)
    np.testing.assert_allclose(found.plan_NM.sum(dim=0).numpy(), masses[1], rtol=1e-5)
    assert found.marginal_error == pytest.approx(np.abs(plan.sum(axis=1) * rows - 1).max(), rel=0.02, abs=2e-6)


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("tolerance", [1.0, 0.1, 0.03, 0.02, 0.01, 3e-3, 1e-4])
def test_resting_potentials_stop_at_the_very_iteration_of_the_official_solver(limit: int, tolerance: float) -> None:
    rows = 40
    sim, forget = _trained_similarity(rows, 0.4, 0.3), _forget(rows, 4)
    cost = _cost(sim, True)
    masses, allowed = (np.full(rows, 1 / rows), np.full(rows + 1, 1 / (rows + 1))), _allowed(forget).numpy()
    plan, iterations = oracle.log_domain(cost, allowed, masses, 0.03, 10 * limit, tolerance)
    config = replace(OFFICIAL, solves="one", max_iterations=10 * limit, tolerance=tolerance)
    stopped = masked_plan(sim, forget, config)
    assert stopped.iterations == iterations
    np.testing.assert_allclose(stopped.plan_NM.numpy(), plan, rtol=3e-4, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 6])
@pytest.mark.parametrize("column_marginal", ["uniform", "forget_share"])
def test_two_solves_exchange_rows_and_columns(column_marginal: str, count: int) -> None:
    """Stopped early they differ: each is exact in what it updates last. Converged, they are one plan."""
    rows = 60
    sim, forget = _trained_similarity(rows, 0.4, 0.3), _forget(rows, count)
    config = replace(OFFICIAL, column_marginal=column_marginal, max_iterations=2)
    early = masked_plan(sim, forget, config)
    assert early.plan_MN is not None
    assert early.plan_MN.shape == (rows + 1, rows)
    torch.testing.assert_close(early.plan_MN.sum(dim=0), torch.full((rows,), 1 / rows), rtol=1e-5, atol=0)
    assert not torch.allclose(early.plan_NM.T, early.plan_MN, rtol=1e-3)
    assert early.iterations == 4
    late = masked_plan(sim, forget, replace(config, stopping="marginals", max_iterations=20000))
    assert late.plan_MN is not None
    torch.testing.assert_close(late.plan_NM.T, late.plan_MN, rtol=0.01, atol=1e-3 / rows)


def test_one_solve_has_no_second_plan() -> None:
    assert masked_plan(_similarity(8), _forget(8, 2), OURS).plan_MN is None


@pytest.mark.parametrize("count", [1, 7, 23, 24])
def test_a_forget_share_sends_all_of_a_forget_row_to_its_negative(count: int) -> None:
    rows = 24
    sim, forget = _similarity(rows), _forget(rows, count)
    solved = masked_plan(sim, forget, replace(OURS, column_marginal="forget_share", max_iterations=20000))
    plan = solved.plan_NM
    assert solved.marginal_error <= 1e-5
    torch.testing.assert_close(plan[forget, -1], torch.full((count,), 1 / rows))
    assert (plan[forget, :-1] == 0).all()
    assert (plan[~forget, -1] == 0).all()
    torch.testing.assert_close(plan.sum(dim=1), torch.full((rows,), 1 / rows), rtol=2e-5, atol=0)
    torch.testing.assert_close(plan.sum(dim=0)[:-1], torch.full((rows,), (rows - count) / rows**2), rtol=2e-5, atol=0)


def test_a_forget_share_is_the_limit_of_the_masked_problem() -> None:
    """The whole problem with these marginals, solved in the log domain, tends to the plan that is written down.

    Only a plan with empty places has these marginals, so that n iterations leave an error like 1 / n: twice the plan
    of 2 n less that of n is without it.
    """
    rows, count = 12, 3
    sim, forget = _similarity(rows), _forget(rows, count)
    config = replace(OURS, epsilon=0.1, column_marginal="forget_share")
    columns = np.full(rows + 1, (rows - count) / rows**2)
    columns[-1] = count / rows
    cost = _cost(sim, True)
    masses, allowed = (np.full(rows, 1 / rows), columns), _allowed(forget).numpy()
    once, twice = (oracle.log_domain(cost, allowed, masses, 0.1, count)[0] for count in (1000, 2000))
    limit = 2 * twice - once
    np.testing.assert_allclose(masked_plan(sim, forget, config).plan_NM.numpy(), limit, atol=1e-5)


def test_under_the_uniform_marginal_a_forget_row_cannot_send_all_its_mass_to_its_negative() -> None:
    rows, count = 20, 4
    plan = masked_plan(_similarity(rows), _forget(rows, count), OURS).plan_NM
    assert float(plan[:count, -1].sum() * rows) == pytest.approx(rows / (rows + 1), rel=1e-4)


def test_one_pair_is_refused_by_name() -> None:
    with pytest.raises(PipelineError, match="a batch of 1 pair"):
        masked_plan(torch.zeros(1, 2), torch.tensor([False]), OURS)


@pytest.mark.parametrize("config", [OURS, OFFICIAL, replace(OURS, column_marginal="forget_share")])
@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_collapsed_embeddings_are_solved(config: TransportConfig, count: int) -> None:
    collapsed = masked_plan(torch.ones(8, 9), _forget(8, count), config)
    assert collapsed.marginal_error < 2e-3
    assert torch.isfinite(collapsed.plan_NM).all()


@pytest.mark.parametrize("config", [OURS, OFFICIAL])
def test_duplicate_pairs_share_their_mass_evenly(config: TransportConfig) -> None:
    sim = _similarity(12)
    sim[7], sim[:, 7] = sim[6], sim[:, 6]
    plan = masked_plan(sim, _forget(12, 2), config).plan_NM
    torch.testing.assert_close(plan[6], plan[7], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plan[:, 6], plan[:, 7], rtol=1e-3, atol=1e-6)


def test_similarities_that_are_not_finite_are_refused() -> None:
    for config in (OURS, OFFICIAL):
        with pytest.raises(PipelineError, match="transport plan is not finite"):
            masked_plan(torch.full((8, 9), torch.nan), _forget(8, 2), config)


def test_ending_at_max_iterations_is_visible_and_no_error() -> None:
    solved = masked_plan(_trained_similarity(200, 0.8, 0.0), _forget(200, 1), replace(OURS, max_iterations=15))
    assert isinstance(solved, TransportPlan)
    assert solved.iterations == 15
    assert solved.marginal_error > OURS.tolerance
