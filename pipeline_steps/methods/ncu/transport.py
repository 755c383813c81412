"""Eqs. 8 and 9: the masked entropic transport plan of a batch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig
from pipeline_steps.methods.ncu.sinkhorn import Solution, sinkhorn


@dataclass(frozen=True)
class TransportPlan:
    """`plan_NM` (N, N+1) sums to 1; `plan_MN` (N+1, N) is that of the second solve, of the transposed cost, if any.

    `iterations` counts both solves, `marginal_error` is the largest relative error of any row or column sum in
    either, `seconds` the wall-clock time of the whole.
    """

    plan_NM: Tensor
    iterations: int
    marginal_error: float
    seconds: float
    plan_MN: Tensor | None = None


def masked_cost(sim_NM: Tensor, forget_N: Tensor, *, normalize: bool) -> Tensor:
    """C_bar = 1 - cosine, (N, N+1) float32, infinite where the mask M of Eq. 8 is 0: in every forget row on the
    diagonal, in every retained row in the last column.

    Divided by its maximum, taken before the mask, where `normalize` (official code, not in the paper).
    """
    cost_NM = 1 - sim_NM.float()
    if normalize:
        cost_NM /= cost_NM.max().clamp(min=1e-6)
    cost_NM.diagonal().masked_fill_(forget_N, torch.inf)
    cost_NM[:, -1].masked_fill_(~forget_N, torch.inf)
    return cost_NM


@torch.no_grad()
def masked_plan(sim_NM: Tensor, forget_N: Tensor, settings: TransportConfig) -> TransportPlan:
    """Eq. 9: the plan for images against captions and, as last column, each image's own negative.

    Row marginal 1/N. `column_marginal: uniform` is the paper's 1/(N+1), which a plan under the mask of Eq. 8 always
    has when N >= 2 and the forget set is not empty. With `forget_share` the last column takes |FG|/N and the others
    share the rest evenly; the only plans that fit send all of a forget row to its negative, so that part is written
    down and the retained rows alone are solved. An empty forget set is the same under both: the last column can
    carry no mass and is zero, the others take 1/N.
    `solves: two` solves the transposed cost as well, rows and columns in exchanged roles, as hhc1997/NCU at cd338a5
    does; converged, its plan is the transpose of the first.
    Raises PipelineError for fewer than two pairs and for similarities that are not finite.
    """
    size = len(forget_N)
    if size < 2:
        raise PipelineError(f"a batch of {size} pair(s) has nothing to transport; the batch size must be at least 2")
    forget_count = int(forget_N.sum())  # on a GPU this waits for what came before: the towers are not in `seconds`
    started = time.perf_counter()
    cost_NM = masked_cost(sim_NM, forget_N, normalize=settings.normalize_cost)
    solve = _whole_batch if forget_count and settings.column_marginal == "uniform" else _retained_rows
    solved = [solve(cost_NM, forget_N, settings)]
    if settings.solves == "two":
        solved.append(solve(cost_NM, forget_N, settings, transposed=True))
    return TransportPlan(
        plan_NM=solved[0].plan_NM,
        iterations=sum(solution.iterations for solution in solved),
        marginal_error=max(solution.marginal_error for solution in solved),
        seconds=time.perf_counter() - started,
        plan_MN=solved[1].plan_NM if len(solved) == 2 else None,
    )


def _whole_batch(cost_NM: Tensor, forget_N: Tensor, settings: TransportConfig, *, transposed: bool = False) -> Solution:
    size = len(forget_N)
    row_mass, column_mass = 1 / size, 1 / (size + 1)
    if transposed:
        return sinkhorn(cost_NM.T.contiguous(), row_mass=column_mass, column_mass=row_mass, settings=settings)
    return sinkhorn(cost_NM, row_mass=row_mass, column_mass=column_mass, settings=settings)


def _retained_rows(
    cost_NM: Tensor, forget_N: Tensor, settings: TransportConfig, *, transposed: bool = False
) -> Solution:
    """The retained rows solved over the captions; the forget rows' mass in the last column."""
    size, retained = len(forget_N), (~forget_N).nonzero().squeeze(1)
    plan_NM = torch.zeros_like(cost_NM)
    plan_NM[:, size] = forget_N / size
    iterations, error = 0, 0.0
    if len(retained):
        cost_RN = cost_NM[retained, :size]
        row_mass, column_mass = 1 / size, len(retained) / size**2
        if transposed:
            solved = sinkhorn(cost_RN.T.contiguous(), row_mass=column_mass, column_mass=row_mass, settings=settings)
        else:
            solved = sinkhorn(cost_RN, row_mass=row_mass, column_mass=column_mass, settings=settings)
        plan_NM[retained, :size] = solved.plan_NM.T if transposed else solved.plan_NM
        iterations, error = solved.iterations, solved.marginal_error
    return Solution(plan_NM.T if transposed else plan_NM, iterations, error)
