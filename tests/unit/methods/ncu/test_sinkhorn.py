from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig
from pipeline_steps.methods.ncu import sinkhorn as solver
from pipeline_steps.methods.ncu.sinkhorn import sinkhorn
from tests.oracles import sinkhorn as oracle
from tests.unit.methods.batches import unit_vectors

SETTINGS = TransportConfig(
    epsilon=0.03,
    normalize_cost=True,
    solves="one",
    column_marginal="uniform",
    stopping="marginals",
    max_iterations=20000,
    tolerance=1e-5,
)
SEEDS = st.integers(0, 2**31 - 1)
Solve = Callable[..., solver.Solution]


def structured_cost(rows: int, forget: int, match: float, noise: float, seed: int = 0, opposite: float = 0.5) -> Tensor:
    """Eq. 8's masked cost (rows, rows + 1) of a batch with matched cosine `match`, some captions exchanged."""
    image, near, far = (unit_vectors(rows, 16, seed + part, torch.float32) for part in range(3))
    text = match * image + (1 - match**2) ** 0.5 * near
    shuffled = torch.arange(rows)
    count = int(noise * rows)
    shuffled[:count] = shuffled[:count].roll(1)
    text = F.normalize(text, dim=1)[shuffled]
    negative = F.normalize(-opposite * text + (1 - opposite**2) ** 0.5 * far, dim=1)
    cost = torch.cat([1 - image @ text.T, 1 - (image * negative).sum(dim=1, keepdim=True)], dim=1)
    forget_N = torch.arange(rows) < forget
    cost.diagonal()[forget_N] = torch.inf
    cost[~forget_N, -1] = torch.inf
    return cost


def solved(cost: Tensor, config: TransportConfig = SETTINGS) -> solver.Solution:
    return sinkhorn(cost, row_mass=1 / cost.shape[0], column_mass=1 / cost.shape[1], settings=config)


def plain_iterations(cost: Tensor, config: TransportConfig) -> int:
    """How many plain iterations in float64 bring the marginals within the tolerance."""
    kernel = torch.exp(-cost.double() / config.epsilon)
    u, v, done, error = kernel[:, 0] * 0 + 1, kernel[0] * 0 + 1, 0, 1.0
    while error > config.tolerance and done < config.max_iterations:
        u = 1 / (cost.shape[0] * (kernel @ v))
        v = 1 / (cost.shape[1] * (u @ kernel))
        error = float((u * (kernel @ v) * cost.shape[0] - 1).abs().max())
        done += 1
    return done


@pytest.mark.parametrize("epsilon", [0.03, 0.1, 1.0])
def test_plan_equals_an_independent_solver(epsilon: float) -> None:
    rows = 40
    cost = structured_cost(rows, 5, 0.5, 0.2).double()
    found = solved(cost, replace(SETTINGS, epsilon=epsilon, tolerance=1e-9)).plan_NM
    expected = ot.sinkhorn(
        np.full(rows, 1 / rows), np.full(rows + 1, 1 / (rows + 1)), cost.nan_to_num(posinf=1e3).numpy(), epsilon,
        method="sinkhorn_log", numItermax=100000, stopThr=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6 / rows)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(3, 40),
    share=st.floats(0, 1),
    match=st.floats(0, 0.95),
    noise=st.sampled_from([0.0, 0.3, 1.0]),
    opposite=st.sampled_from([-0.5, 0.0, 0.5, 0.9]),
    epsilon=st.sampled_from([0.01, 0.03, 0.2]),
    seed=SEEDS,
)
def test_over_relaxation_never_diverges_nor_stalls(
    rows: int, share: float, match: float, noise: float, opposite: float, epsilon: float, seed: int
) -> None:
    cost = structured_cost(rows, 1 + int(share * (rows - 1)), match, noise, seed, opposite)
    config = replace(SETTINGS, epsilon=epsilon, tolerance=1e-4)
    found = solved(cost, config)
    plain = plain_iterations(cost, config)
    assert found.iterations <= 1.5 * plain + 300  # the largest relaxation alone gains a factor of 1e4 in 180
    if plain < config.max_iterations:
        assert found.marginal_error <= config.tolerance
    assert torch.isfinite(found.plan_NM).all()


@pytest.mark.parametrize("relaxation", [2.05, 2.6, 4.0, 30.0])
def test_a_relaxation_that_diverges_falls_back_to_plain_steps(
    relaxation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 the iterations diverge; the solver starts there, and ends with the plan of plain steps."""
    paces: list[solver._Pace] = []
    pace_class = solver._Pace

    def started_too_fast() -> solver._Pace:
        paces.append(pace_class(relaxation=relaxation))
        return paces[-1]

    cost = structured_cost(64, 6, 0.6, 0.3)
    expected = solved(cost)
    monkeypatch.setattr(solver, "_Pace", started_too_fast)
    found = solved(cost)
    assert paces[0].ceiling < solver._LARGEST_RELAXATION
    assert found.marginal_error <= SETTINGS.tolerance
    torch.testing.assert_close(found.plan_NM, expected.plan_NM, rtol=1e-3, atol=1e-9)


def test_every_fall_lowers_the_relaxation_until_only_plain_steps_are_left() -> None:
    pace, seen = solver._Pace(), []
    for _ in range(6):
        pace.fall_back()
        seen.append(pace.ceiling)
    assert seen == pytest.approx([1.9, 1.8, 1.6, 1.2, 1.0, 1.0])
    for error in (0.1, 0.09, 0.08):
        pace.adapt(error, 0.0)
    assert pace.relaxation == 1.0


def test_steps_are_plain_far_from_the_plan_and_without_gain() -> None:
    pace = solver._Pace()
    for error in (0.9, 0.8, 0.7):
        pace.adapt(error, -error)
    assert pace.relaxation == 1.0
    for error in (0.4, 0.2):
        pace.adapt(error, -error)
    assert pace.relaxation > 1
    for _ in range(solver._PATIENCE):
        pace.adapt(0.2, -0.2)
    assert pace.relaxation == 1.0
    assert pace.ceiling < solver._LARGEST_RELAXATION


def test_over_relaxation_beats_plain_iterations_on_a_structured_batch() -> None:
    cost = structured_cost(256, 25, 0.8, 0.0)
    assert solved(cost).iterations < plain_iterations(cost, SETTINGS) / 2


@pytest.mark.parametrize("epsilon", [0.02, 0.01, 0.005])
def test_float32_takes_the_steps_of_float64_where_the_kernel_spans_more_than_it_holds(epsilon: float) -> None:
    cost, config = structured_cost(64, 6, 0.6, 0.3), replace(SETTINGS, epsilon=epsilon, tolerance=1e-4)
    cost[:, 7] += 1.0
    finite = cost[cost.isfinite()]
    assert (finite.max() - finite.min()) / epsilon > solver._DIRECT_RANGE
    short, long = solved(cost, config), solved(cost.double(), config)
    assert short.plan_NM.dtype == torch.float32
    assert short.marginal_error <= config.tolerance
    assert short.iterations == pytest.approx(long.iterations, rel=0.1, abs=10)
    torch.testing.assert_close(short.plan_NM.double(), long.plan_NM, rtol=0.02, atol=1e-7)


@pytest.mark.parametrize("epsilon", [0.002, 0.0005])
def test_any_epsilon_ends_with_a_finite_plan_that_tells_its_error(epsilon: float) -> None:
    config = replace(SETTINGS, epsilon=epsilon, max_iterations=500)
    found = solved(structured_cost(64, 6, 0.6, 0.3), config)
    assert found.iterations == 500
    assert found.marginal_error > config.tolerance
    torch.testing.assert_close(found.plan_NM.sum(dim=0), torch.full((65,), 1 / 65), rtol=1e-5, atol=0)


@pytest.mark.parametrize("stopping", ["marginals", "potentials"])
def test_a_column_far_beyond_the_range_of_float32_is_served(stopping: str) -> None:
    """The last column costs 2.6 more than the others: its scaling is near exp(130)."""
    cost = structured_cost(32, 32, 0.3, 0.0)
    cost[:, -1] += 2.3
    config = replace(SETTINGS, epsilon=0.02, stopping=stopping, max_iterations=5000, tolerance=1e-6)
    masses = np.full(32, 1 / 32), np.full(33, 1 / 33)
    expected, _ = oracle.log_domain(cost.double().numpy(), cost.isfinite().numpy(), masses, 0.02, 5000, 1e-9)
    np.testing.assert_allclose(solved(cost, config).plan_NM.numpy(), expected, rtol=1e-3, atol=1e-4 / 32)


def test_recovery_gives_the_same_plan_as_an_undisturbed_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    cost, spoiled = structured_cost(48, 5, 0.5, 0.0), [20, 30, 70]
    expected = solved(cost).plan_NM
    iterate = solver._Scaling.iterate

    def overflowing(scaling: solver._Scaling, relaxation: float) -> None:
        iterate(scaling, relaxation)
        if scaling.done in spoiled:
            spoiled.remove(scaling.done)
            scaling.u = scaling.u * torch.inf

    monkeypatch.setattr(solver._Scaling, "iterate", overflowing)
    found = solved(cost)
    assert len(spoiled) < 3
    torch.testing.assert_close(found.plan_NM, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("stopping", ["marginals", "potentials"])
def test_costs_that_are_not_numbers_are_refused(value: float, stopping: str) -> None:
    cost = structured_cost(8, 2, 0.5, 0.0)
    cost[3, 4] = value
    with pytest.raises(PipelineError, match="transport plan is not finite"):
        solved(cost, replace(SETTINGS, stopping=stopping))


def test_a_row_without_any_place_is_refused() -> None:
    cost = structured_cost(8, 2, 0.5, 0.0)
    cost[3] = torch.inf
    with pytest.raises(PipelineError, match="without any place for its mass"):
        solved(cost)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 6), columns=st.integers(2, 7), density=st.floats(0.2, 0.9), seed=SEEDS)
def test_marginals_that_no_plan_has_are_refused_and_all_others_solved(
    rows: int, columns: int, density: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.rand(rows, columns, generator=generator) < density
    allowed[torch.arange(rows), torch.randint(columns, (rows,), generator=generator)] = True
    allowed[torch.randint(rows, (columns,), generator=generator), torch.arange(columns)] = True
    cost = torch.where(allowed, torch.rand(rows, columns, generator=generator), torch.inf)
    config = replace(SETTINGS, epsilon=0.2, max_iterations=1000)
    solve: Solve = partial(sinkhorn, cost, row_mass=1 / rows, column_mass=1 / columns, settings=config)
    if oracle.has_plan(allowed.numpy(), 1 / rows, 1 / columns):
        assert solve().marginal_error < 0.01  # a place that every plan leaves empty is approached like 1 / iterations
    else:
        with pytest.raises(PipelineError, match="no transport plan has these marginals"):
            solve()
