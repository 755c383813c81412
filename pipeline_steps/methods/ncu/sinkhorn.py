"""Entropic optimal transport by Sinkhorn iterations in kernel form: accelerated, or plain as the official code's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TransportConfig

_CHECK_EVERY = 10  # iterations; a check costs one product with the kernel and, on a GPU, the only wait for it
_LARGEST_RELAXATION = 1.95
_NEAR = 0.5  # relative error below which steps are over-relaxed at all: farther off they may overshoot without bound
_PATIENCE = 20  # checks without a new highest dual value after which over-relaxation gives way to plain steps
_DIRECT_RANGE = 80.0  # float32 holds exp(-80); a wider kernel starts from potentials found in the log domain
_SCALING_RANGE = 30.0  # largest |log u|, |log v| before they move into the kernel; 30 * 1.95 stays inside float32
_BLOCK = 512  # longest sum in one product: a CPU's float32 product drifts by 1e-5 over 2048 terms of mixed size


@dataclass(frozen=True)
class Solution:
    """`plan_NM`, how many iterations it took, and the largest relative error of any of its row or column sums."""

    plan_NM: Tensor
    iterations: int
    marginal_error: float


@torch.no_grad()
def sinkhorn(cost_NM: Tensor, *, row_mass: float, column_mass: float, settings: TransportConfig) -> Solution:
    """Solve min <G, C> - epsilon H(G) over plans G >= 0 whose rows sum to `row_mass` and columns to `column_mass`.

    `cost_NM` is infinite where G must be zero. Kernel form: G = diag(u) K diag(v), K = exp((f + g - C) / epsilon);
    the potentials f and g take over what u and v would need beyond the range of float32 (Schmitzer 2019, "Stabilized
    sparse scaling algorithms for entropy regularized transport problems"), so that any epsilon > 0 works.

    `settings.stopping`:
    `marginals` iterates until both marginals hold to `tolerance` (relative), with an over-relaxation set by the rate
    seen (Thibault et al. 2021, "Overrelaxed Sinkhorn-Knopp algorithm") that falls back to plain steps;
    `potentials` takes plain steps, rows first, columns last, until the summed change of the row potentials
    epsilon log u is below `tolerance`, as hhc1997/NCU at cd338a5 does in the log domain.
    Both end at `max_iterations` at the latest; that is no error: `marginal_error` says how far the plan is.
    Raises PipelineError for costs that are not numbers, for a row or column without any place for its mass, and,
    under `marginals`, for marginals that no plan can have.
    """
    scaling = _Scaling(cost_NM, row_mass, column_mass, settings.epsilon)
    if settings.stopping == "potentials":
        return _until_potentials_rest(scaling, settings)
    return _until_marginals_hold(scaling, settings)


def _until_marginals_hold(scaling: _Scaling, settings: TransportConfig) -> Solution:
    pace = _Pace()
    while True:
        start = scaling.u, scaling.v
        count = min(_CHECK_EVERY, max(settings.max_iterations - scaling.done, 0))
        for _ in range(count):
            scaling.iterate(pace.relaxation)
        error, reach, dual = scaling.measure()
        if not (math.isfinite(error) and math.isfinite(reach)):
            scaling.recover(*start)
            pace.fall_back()
            continue
        out_of_steps = scaling.done >= settings.max_iterations
        if error <= settings.tolerance or out_of_steps:
            solution = scaling.solution(scaling.exact_v)
            if solution.marginal_error <= settings.tolerance:
                return solution
            if out_of_steps:
                _refuse_infeasible(scaling)
                return solution
        pace.adapt(error, dual)
        if reach > _SCALING_RANGE:
            scaling.absorb()


def _until_potentials_rest(scaling: _Scaling, settings: TransportConfig) -> Solution:
    """Stops at the very iteration that meets the tolerance, although it looks only once in `_CHECK_EVERY`."""
    while scaling.done < settings.max_iterations:
        path, first = [(scaling.u, scaling.v)], scaling.done == 0
        for _ in range(min(_CHECK_EVERY, settings.max_iterations - scaling.done)):
            scaling.iterate(1.0)
            path.append((scaling.u, scaling.v))
        moves = [(new[0] / old[0]).log().abs().sum() for old, new in zip(path, path[1:], strict=False)]
        changes = (settings.epsilon * torch.stack(moves)).tolist()
        _, reach, _ = scaling.measure()
        if not (math.isfinite(reach) and math.isfinite(sum(changes))):
            scaling.done -= len(moves)
            scaling.recover(*path[0])
            continue
        resting = [
            index for index, change in enumerate(changes) if change < settings.tolerance and (index or not first)
        ]
        if resting:
            scaling.done -= len(moves) - 1 - resting[0]
            scaling.u, scaling.v = path[resting[0] + 1]
            break
        if reach > _SCALING_RANGE:
            scaling.absorb()
    return scaling.solution(scaling.v)


class _Scaling:
    """The iterate: potentials f (N), g (M) inside the kernel, scalings u (N), v (M) outside it.

    `exact_v` is the full column step of the last iteration: with it the column sums are exact.
    """

    kernel: Tensor
    u: Tensor
    v: Tensor
    exact_v: Tensor

    def __init__(self, cost_NM: Tensor, row_mass: float, column_mass: float, epsilon: float) -> None:
        self.cost_NM, self.row_mass, self.column_mass, self.epsilon = cost_NM, row_mass, column_mass, epsilon
        self.f, self.g = cost_NM.amin(dim=1), torch.zeros_like(cost_NM[0])
        self.done, self._recovering = 0, False
        ends = [self.f.min(), self.f.max(), cost_NM.amin(dim=0).max(), _finite_largest(cost_NM)]
        lowest, of_rows, of_columns, highest = torch.stack(ends).tolist()
        if torch.inf in (of_rows, of_columns):
            raise PipelineError("the transport mask leaves a row or a column without any place for its mass")
        if (highest - lowest) / epsilon <= _DIRECT_RANGE:
            self._rebuild()
        else:
            self._balance()

    def iterate(self, relaxation: float) -> None:
        """One row step, then one column step; blocks of rows go through both while the processor still holds them."""
        u, sums_M = [], torch.zeros_like(self.v)
        for kernel, old in zip(_blocks(self.kernel), _blocks(self.u), strict=True):
            u.append(_relaxed(old, self.row_mass / _times(kernel, self.v), relaxation))
            sums_M = sums_M + u[-1] @ kernel
        self.u = torch.cat(u)
        self.exact_v = self.column_mass / sums_M
        self.v = _relaxed(self.v, self.exact_v, relaxation)
        self.done += 1

    def measure(self) -> tuple[float, float, float]:
        """With exact columns: the largest relative row error and the dual value; and the largest |log u|, |log v|.

        A GPU is waited for here, once.
        """
        error = _largest_error(self.u * _times(self.kernel, self.exact_v), self.row_mass)
        log_u, log_v = self.u.log(), self.exact_v.log()
        f, g = (self.f + self.epsilon * log_u).double(), (self.g + self.epsilon * log_v).double()
        dual = self.row_mass * f.sum() + self.column_mass * g.sum()
        reach = torch.maximum(log_u.abs().max(), self.v.log().abs().max())
        found, reached, value = torch.stack([error.double(), reach.double(), dual]).tolist()
        self._recovering = self._recovering and not math.isfinite(found + reached)
        return found, reached, value

    def solution(self, v: Tensor) -> Solution:
        """The plan diag(u) K diag(v) with its error, summed anew from its entries."""
        plan_NM = (self.u[:, None] * self.kernel).mul_(v)
        errors = [
            _largest_error(plan_NM.sum(dim=1), self.row_mass),
            _largest_error(plan_NM.sum(dim=0), self.column_mass),
        ]
        return Solution(plan_NM, self.done, max(torch.stack(errors).tolist()))

    def absorb(self) -> None:
        """Move the scalings into the potentials: the same plan, from u = v = 1."""
        self.f, self.g = self.f + self.epsilon * self.u.log(), self.g + self.epsilon * self.v.log()
        self._rebuild()

    def recover(self, u: Tensor, v: Tensor) -> None:
        """Go back to these scalings and on by one iteration in the log domain, which cannot overflow.

        Raises PipelineError when the iterations that followed the last recovery were not finite either.
        """
        if self._recovering:
            raise PipelineError(
                "the transport plan is not finite: the costs of this batch are not (collapsed or non-finite "
                "embeddings). Lower training.lr, or raise transport.epsilon."
            )
        self.f, self.g = self.f + self.epsilon * u.log(), self.g + self.epsilon * v.log()
        self._balance()
        self._recovering = True

    def _balance(self) -> None:
        rows, columns = math.log(self.row_mass), math.log(self.column_mass)
        self.f = self.epsilon * (rows - ((self.g - self.cost_NM) / self.epsilon).logsumexp(dim=1))
        self.g = self.epsilon * (columns - ((self.f[:, None] - self.cost_NM) / self.epsilon).logsumexp(dim=0))
        self.done += 1
        self._rebuild()

    def _rebuild(self) -> None:
        self.kernel = self.cost_NM - self.f[:, None]
        if self.done:
            self.kernel -= self.g
        self.kernel.div_(-self.epsilon).exp_()
        self.u, self.v = torch.ones_like(self.f), torch.ones_like(self.g)
        self.exact_v = self.v


@dataclass
class _Pace:
    """The over-relaxation of the next iterations, and how far it may go."""

    relaxation: float = 1.0
    ceiling: float = _LARGEST_RELAXATION
    last_error: float = math.inf
    best_dual: float = -math.inf
    waiting: int = 0

    def adapt(self, error: float, dual: float) -> None:
        """Take in the error and the dual value of a check.

        A rate r seen under relaxation w belongs to a plain rate eta with (r + w - 1)^2 = r w^2 eta, and eta's best
        relaxation is 2 / (1 + sqrt(1 - eta)) (Young 1954, successive over-relaxation). A change of relaxation lets
        the error rise for a while, so a rise keeps the relaxation; a hundredfold rise, or `_PATIENCE` checks that
        gain nothing, go back to plain steps, which converge from anywhere.
        """
        gained, rose = dual > self.best_dual, error >= 100 * self.last_error
        self.waiting = 0 if gained or self.relaxation == 1.0 else self.waiting + 1
        rate = (error / self.last_error) ** (1 / _CHECK_EVERY)
        self.last_error, self.best_dual = error, max(dual, self.best_dual)
        if self.relaxation > 1 and (error > _NEAR or rose or self.waiting >= _PATIENCE):
            self.fall_back()
        elif error <= _NEAR and self.relaxation - 1 < rate < 1:
            plain_rate = min((rate + self.relaxation - 1) ** 2 / (rate * self.relaxation**2), 1.0)
            best = 2 / (1 + math.sqrt(1 - plain_rate))
            self.relaxation = max(self.relaxation, min(best, self.ceiling))

    def fall_back(self) -> None:
        """Plain steps, and from there at most twice as far from 2 as before; after five falls plain steps for good."""
        self.relaxation, self.waiting = 1.0, 0
        self.ceiling = 2 * self.ceiling - 2 if self.ceiling > 1.5 else 1.0


def _refuse_infeasible(scaling: _Scaling) -> None:
    """Raise PipelineError if some rows hold more mass than all the columns they may use (Hall's condition).

    Where no plan exists, the row scalings of such rows grow without end: they are the first in the order of their
    potentials, and counting their columns proves it.
    """
    allowed_NM, count = scaling.cost_NM.isfinite(), len(scaling.u)
    rank_N = (scaling.f + scaling.epsilon * scaling.u.log()).argsort(descending=True).argsort()
    reached_from_M = torch.where(allowed_NM, rank_N[:, None], count).amin(dim=0)
    columns_N = torch.bincount(reached_from_M, minlength=count)[:count].cumsum(0)
    held_N = scaling.row_mass * torch.arange(1, count + 1, device=columns_N.device)
    missing_N = held_N - scaling.column_mass * columns_N
    worst = int(missing_N.argmax())
    if float(missing_N[worst]) > 1e-6 * scaling.row_mass:
        rows, columns = worst + 1, int(columns_N[worst])
        raise PipelineError(
            f"no transport plan has these marginals: {rows} row(s) hold {rows * scaling.row_mass:.4g} of the mass and "
            f"may only use {columns} column(s), which take {columns * scaling.column_mass:.4g}; allow these rows "
            "more columns, or give the columns more mass"
        )


def _blocks(rows: Tensor) -> tuple[Tensor, ...]:
    return (rows,) if rows.is_cuda else torch.split(rows, _BLOCK)


def _times(kernel: Tensor, vector: Tensor) -> Tensor:
    if kernel.is_cuda or len(vector) <= _BLOCK:
        return kernel @ vector
    parts = [
        part @ piece
        for part, piece in zip(torch.split(kernel, _BLOCK, dim=1), torch.split(vector, _BLOCK), strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


def _relaxed(old: Tensor, full_step: Tensor, relaxation: float) -> Tensor:
    return full_step if relaxation == 1.0 else old.pow(1 - relaxation) * full_step.pow(relaxation)


def _largest_error(sums: Tensor, mass: float) -> Tensor:
    return (sums / mass - 1).abs().max().nan_to_num(nan=torch.inf)


def _finite_largest(cost_NM: Tensor) -> Tensor:
    return cost_NM.nan_to_num(nan=torch.nan, posinf=-torch.inf).max()
