"""Eqs. 8 and 9: masked entropic optimal transport by accelerated Sinkhorn iterations in kernel form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig

_CHECK_EVERY = 10
_LARGEST_RELAXATION = 1.95
_FLOAT32_RANGE, _FLOAT64_RANGE = 80.0, 650.0


@dataclass(frozen=True)
class TransportPlan:
    """`plan_NM` sums to 1; `marginal_error` is the largest relative error of any row or column sum."""

    plan_NM: Tensor
    iterations: int
    marginal_error: float


def transport_cost(sim_NM: Tensor, *, normalize: bool) -> Tensor:
    """C_bar = 1 - cosine, (N, N+1); divided by its maximum where `normalize` (official code, not in the paper)."""
    cost_NM = 1 - sim_NM.float()
    return cost_NM / cost_NM.max().clamp(min=1e-6) if normalize else cost_NM


def transport_mask(forget_N: Tensor) -> Tensor:
    """Eq. 8 as bool (N, N+1): False on the diagonal of forget rows and in the last column of retained rows."""
    size = len(forget_N)
    mask_NM = torch.ones(size, size + 1, dtype=torch.bool, device=forget_N.device)
    mask_NM[:, :size].fill_diagonal_(True)
    mask_NM[forget_N, forget_N.nonzero().squeeze(1)] = False
    mask_NM[~forget_N, size] = False
    return mask_NM


@torch.no_grad()
def masked_plan(sim_NM: Tensor, forget_N: Tensor, settings: TransportConfig) -> TransportPlan:
    """Eq. 9: the plan for images against captions and, as last column, each image's own negative.

    Row marginal 1/N, column marginal 1/(N+1). With an empty forget set the last column is masked everywhere and can
    carry no mass: the plan is then the one over N columns with marginal 1/N, and its last column is zero.
    Raises PipelineError for fewer than two pairs.
    """
    size = len(forget_N)
    if size < 2:
        raise PipelineError(f"a batch of {size} pair(s) has nothing to transport; the batch size must be at least 2")
    cost_NM, mask_NM = transport_cost(sim_NM, normalize=settings.normalize_cost), transport_mask(forget_N)
    if forget_N.any():
        return sinkhorn(cost_NM, mask_NM, settings)
    solved = sinkhorn(cost_NM[:, :size], mask_NM[:, :size], settings)
    padded = torch.nn.functional.pad(solved.plan_NM, (0, 1))
    return TransportPlan(padded, solved.iterations, solved.marginal_error)


@torch.no_grad()
def sinkhorn(cost_NM: Tensor, mask_NM: Tensor, settings: TransportConfig) -> TransportPlan:
    """Solve min <G, C> - epsilon H(G) over plans G >= 0 with uniform marginals and G = 0 where the mask is False.

    Kernel form: K = exp(-(C - row minimum) / epsilon) under the mask, G = diag(u) K diag(v). Iterates until both
    marginals hold to `tolerance` (relative), at most `max_iterations`. The convergence rate seen in plain steps sets
    an over-relaxation of the later ones (Thibault et al. 2021, "Overrelaxed Sinkhorn-Knopp algorithm"). float32,
    and float64 where the spread of C / epsilon asks for it.
    Raises PipelineError when epsilon is too small for float64, a row or column of the mask is empty, or the plan is
    not finite. Ending at `max_iterations` is no error: `marginal_error` says how far the plan is.
    """
    kernel = _kernel(cost_NM, mask_NM, settings.epsilon)
    rows, columns = 1.0 / kernel.shape[0], 1.0 / kernel.shape[1]
    u, v = kernel.new_ones(kernel.shape[0]), kernel.new_ones(kernel.shape[1])
    relaxation, last_error, error, done = 1.0, float("inf"), float("inf"), 0
    while error > settings.tolerance and done < settings.max_iterations:
        for _ in range(min(_CHECK_EVERY, settings.max_iterations - done)):
            u = _relaxed(u, rows / (kernel @ v), relaxation)
            v = _relaxed(v, columns / (u @ kernel), relaxation)
            done += 1
        exact_v = columns / (u @ kernel)
        error = _largest(u * (kernel @ exact_v) / rows - 1)
        relaxation, last_error = _next_relaxation(relaxation, error, last_error), error
    plan_NM = (u[:, None] * kernel * exact_v).to(cost_NM.dtype)
    error = max(_largest(plan_NM.sum(dim=1) / rows - 1), _largest(plan_NM.sum(dim=0) / columns - 1))
    if not math.isfinite(error):
        raise PipelineError(
            "the transport plan is not finite: the costs of this batch are not (collapsed or non-finite embeddings). "
            "Lower training.lr, or raise transport.epsilon."
        )
    return TransportPlan(plan_NM, done, error)


def _kernel(cost_NM: Tensor, mask_NM: Tensor, epsilon: float) -> Tensor:
    if not (mask_NM.any(dim=1).all() and mask_NM.any(dim=0).all()):
        raise PipelineError("the transport mask leaves a row or a column without any place for its mass")
    exponent = torch.where(mask_NM, cost_NM, torch.inf)
    exponent = (exponent - exponent.amin(dim=1, keepdim=True)) / epsilon
    spread = float(torch.where(mask_NM, exponent, 0.0).max())
    if spread > _FLOAT64_RANGE:
        raise PipelineError(
            f"transport.epsilon = {epsilon} is too small for these costs (spread {spread:.0f} > {_FLOAT64_RANGE:.0f}); "
            f"allowed: at least {epsilon * spread / _FLOAT64_RANGE:.2g}"
        )
    return torch.exp(-exponent.double() if spread > _FLOAT32_RANGE else -exponent)


def _relaxed(old: Tensor, full_step: Tensor, relaxation: float) -> Tensor:
    return full_step if relaxation == 1.0 else old.pow(1 - relaxation) * full_step.pow(relaxation)


def _largest(relative_error: Tensor) -> float:
    return float(relative_error.abs().max().nan_to_num(nan=float("inf")))


def _next_relaxation(relaxation: float, error: float, last_error: float) -> float:
    """The best over-relaxation for the rate just seen, by the theory of successive over-relaxation (Young 1954).

    An observed rate r under relaxation w belongs to a plain rate eta with (r + w - 1)^2 = r w^2 eta, and eta's best
    relaxation is 2 / (1 + sqrt(1 - eta)). A change of relaxation lets the error rise for a while, so a rise keeps
    the relaxation; one beyond any such start (a hundredfold) goes back to plain steps.
    """
    if not error < 100 * last_error:
        return 1.0
    rate = (error / last_error) ** (1 / _CHECK_EVERY)
    if not relaxation - 1 < rate < 1:
        return relaxation
    plain_rate = min((rate + relaxation - 1) ** 2 / (rate * relaxation**2), 1.0)
    best = 2 / (1 + math.sqrt(1 - plain_rate))
    return max(relaxation, min(best, _LARGEST_RELAXATION))
