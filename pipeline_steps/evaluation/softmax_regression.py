"""Multinomial logistic regression by L-BFGS, on CPU or GPU, in one pass over the features per evaluation.

The objective is that of scikit-learn's LogisticRegression(C), for weights W (K, d) and a free bias b (K,):

    C * sum of cross-entropies in nats + 1/2 ||W||^2

with, as there, one weight vector for two classes: ||W||^2 is then that of the difference of our two, which at the
optimum is twice their sum of squares.

L-BFGS is torch's; it needs few iterations because its variables are preconditioned. Let v_i be the mean over classes of
p(1 - p) at row i, m the mean of x under v, and S the sum of v_i (x_i - m)(x_i - m)^T. For every class the Hessian in W
is close to C S + I (with all p equal that is the bound of Boehning 1992), so in the coordinates u = W L, where L L^T =
C S + I, and with the bias taken at m, the objective is close to a sphere. S comes from a sample of the rows. A fit goes
in rounds: each takes S anew at the point reached and forgets L-BFGS's memory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.evaluation.labelled_rows import Integers, LabelledRows

TOLERANCE = 4e-9  # of `gap`; on the features tried the objective was then within 2e-7 of the optimum
_ROUND_ITERATIONS = 200
_HISTORY, _LEAST_HISTORY, _HISTORY_ELEMENTS = 50, 10, 2**24
_MOST_STALLED = 6
_NOISE = {torch.float32: 1e-8, torch.float64: 0.0}
_SAMPLE_PER_DIMENSION = 16
_SCALE = 0.1


# torch would load its compiler, three seconds, at the first call of this method, to leave the method out of what it
# compiles. Nothing is compiled here. Where torch no longer looks for this, it loads the compiler.
_add_param_group = torch.optim.Optimizer.add_param_group.__wrapped__  # type: ignore[attr-defined]
_add_param_group.__dict__.setdefault("__dynamo_disable", _add_param_group)


class Value(NamedTuple):
    """The objective at a point, and its gradient in the weights (K, d) and the bias (K,), float64."""

    objective: float
    weight_KD: Tensor
    bias_K: Tensor


@dataclass(frozen=True)
class Solution:
    """Weights (K, d) and bias (K,), float64, of the K classes that occurred, whose numbers are `classes`, ascending.

    `gap` estimates how far the objective is above the optimum, relative to itself: half the squared gradient in the
    coordinates above. `converged`: it is at most TOLERANCE. `iterations` of L-BFGS, `passes` over the features.
    """

    weight_KD: Tensor
    bias_K: Tensor
    classes: Integers
    inverse_l2: float
    objective: float
    gap: float
    iterations: int
    passes: int

    @property
    def converged(self) -> bool:
        """Whether the optimum was reached."""
        return self.gap <= TOLERANCE

    def logits(self, feature_MD: Tensor) -> Tensor:
        """(m, K) for rows (m, d)."""
        return torch.addmm(self.bias_K.to(feature_MD), feature_MD, self.weight_KD.to(feature_MD).T)


class UnfitSetError(PipelineError):
    """A set that no probe can be fitted on, whatever the checkpoint: the others are scored without it."""


class SoftmaxRegression:
    """The regression of one set of rows, for any strength. Raises UnfitSetError for fewer than two classes."""

    def __init__(self, rows: LabelledRows) -> None:
        self._rows = rows
        self.classes: Integers = np.unique(rows.label)
        if len(self.classes) < 2:
            raise UnfitSetError(f"its training split holds {len(self.classes)} class, and a probe needs two")
        numbers = np.full(int(self.classes[-1]) + 1, -1, dtype=np.int64)
        numbers[self.classes] = np.arange(len(self.classes))
        self._numbers = torch.from_numpy(numbers).to(rows.device)
        self._sample = rows.sample(_SAMPLE_PER_DIMENSION * rows.width).double()

    @property
    def penalty(self) -> float:
        """What half the squared weights are multiplied by."""
        return 2.0 if len(self.classes) == 2 else 1.0

    def fit(self, inverse_l2: float, max_iterations: int, start: Solution | None = None) -> Solution:
        """The optimum at strength C = `inverse_l2`, from zero or from a solution of the same classes.

        Products are in float32 and sums in float64, until float32 brings no more; each round ends with a float64 pass,
        which also decides whether the optimum is reached. Raises PipelineError when the objective is not finite.
        """
        weight, bias = self._start(start)
        iterations, passes, gap, objective, dtype = 0, 0, float("inf"), float("inf"), torch.float32
        while True:
            metric = self._metric(weight, bias, inverse_l2)
            value = self.evaluate(weight, bias, inverse_l2, torch.float64)
            better = metric.gap(value) < gap or value.objective < objective
            slow, gap, objective = metric.gap(value) > gap / 2, metric.gap(value), value.objective
            passes += 1
            if gap <= TOLERANCE or iterations >= max_iterations or (dtype == torch.float64 and not better):
                return Solution(weight, bias, self.classes, inverse_l2, objective, gap, iterations, passes)
            if slow:
                dtype = torch.float64
            descent = _Descent(self, metric, inverse_l2, dtype, objective)
            weight, bias = descent.run(weight, bias, min(_ROUND_ITERATIONS, max_iterations - iterations))
            iterations, passes = iterations + descent.iterations, passes + descent.passes

    def evaluate(self, weight_KD: Tensor, bias_K: Tensor, inverse_l2: float, dtype: torch.dtype) -> Value:
        """The objective and its gradient, products in `dtype`; no more than a chunk of logits at a time."""
        weight, bias = weight_KD.to(dtype), bias_K.to(dtype)
        loss = weight_KD.new_zeros(())
        gradient_KD, gradient_K = torch.zeros_like(weight_KD), torch.zeros_like(bias_K)
        for feature_MD, label_M in self._rows.chunks(len(self.classes)):
            x_MD, class_M = feature_MD.to(dtype), self._numbers[label_M]
            log_KM = torch.addmm(bias[:, None], weight, x_MD.T).log_softmax(dim=0)  # rows last: many times as fast
            loss -= log_KM.gather(0, class_M[None]).sum(dtype=torch.float64)
            residual_KM = log_KM.exp_()
            residual_KM.scatter_add_(0, class_M[None], residual_KM.new_full((1, len(class_M)), -1.0))
            gradient_KD += residual_KM @ x_MD
            gradient_K += residual_KM.sum(dim=1, dtype=torch.float64)
        half_squares = 0.5 * self.penalty * float((weight_KD**2).sum())
        return Value(
            inverse_l2 * float(loss) + half_squares,
            inverse_l2 * gradient_KD + self.penalty * weight_KD,
            inverse_l2 * gradient_K,
        )

    def _start(self, start: Solution | None) -> tuple[Tensor, Tensor]:
        if start is not None and np.array_equal(start.classes, self.classes):
            return start.weight_KD, start.bias_K
        shape = (len(self.classes), self._rows.width)
        weight = torch.zeros(shape, dtype=torch.float64, device=self._rows.device)
        return weight, weight.new_zeros(shape[0])

    def _metric(self, weight_KD: Tensor, bias_K: Tensor, inverse_l2: float) -> _Metric:
        size = self._rows.chunk_size(len(self.classes))
        variance = [_mean_variance(part, weight_KD, bias_K) for part in torch.split(self._sample, size)]
        v_N = torch.cat(variance)[:, None].clamp(min=torch.finfo(torch.float64).tiny)
        total = v_N.sum()
        mean_D = (v_N * self._sample).sum(dim=0) / total
        scatter_DD = weight_KD.new_zeros(len(mean_D), len(mean_D))
        for x_MD, v_M in zip(torch.split(self._sample, size), torch.split(v_N, size), strict=True):
            centred_MD = (x_MD - mean_D) * v_M.sqrt()
            scatter_DD.addmm_(centred_MD.T, centred_MD)
        scale = inverse_l2 * len(self._rows) / len(self._sample)
        curvature_DD = scale * scatter_DD
        rounding = 1e-13 * float(curvature_DD.diagonal().max())
        curvature_DD.diagonal().add_(self.penalty + rounding)
        bias_scale = (scale * total).clamp(min=torch.finfo(torch.float64).eps * float(scale) * len(self._sample))
        return _Metric(torch.linalg.cholesky(curvature_DD), mean_D, bias_scale.sqrt())


def _mean_variance(x_MD: Tensor, weight_KD: Tensor, bias_K: Tensor) -> Tensor:
    """(m,): the mean over classes of p(1 - p)."""
    p_KM = torch.addmm(bias_K[:, None], weight_KD, x_MD.T).softmax(dim=0)
    return (p_KM * (1 - p_KM)).mean(dim=0)


class _Metric(NamedTuple):
    """The coordinates in which the objective is nearly a sphere: u = [W L, (b + W m) s], (K, d + 1)."""

    lower_DD: Tensor
    mean_D: Tensor
    bias_scale: Tensor

    def to(self, weight_KD: Tensor, bias_K: Tensor) -> Tensor:
        bias = (bias_K + weight_KD @ self.mean_D) * self.bias_scale
        return torch.cat([weight_KD @ self.lower_DD, bias[:, None]], dim=1)

    def back(self, u: Tensor) -> tuple[Tensor, Tensor]:
        weight_KD = torch.linalg.solve_triangular(self.lower_DD, u[:, :-1], upper=False, left=False)
        return weight_KD, u[:, -1] / self.bias_scale - weight_KD @ self.mean_D

    def gradient(self, value: Value) -> Tensor:
        at_mean_KD = value.weight_KD - value.bias_K[:, None] * self.mean_D
        weight = torch.linalg.solve_triangular(self.lower_DD.T, at_mean_KD, upper=True, left=False)
        return torch.cat([weight, (value.bias_K / self.bias_scale)[:, None]], dim=1)

    def gap(self, value: Value) -> float:
        return 0.5 * float((self.gradient(value) ** 2).sum()) / value.objective


class _Stop(Exception):  # noqa: N818  no error: torch's L-BFGS knows no other stop than absolute tolerances
    pass


class _Descent:
    """One round of L-BFGS in the coordinates of `metric`.

    The objective is scaled by what it is at the start, because torch's L-BFGS has absolute thresholds.
    """

    def __init__(
        self, problem: SoftmaxRegression, metric: _Metric, inverse_l2: float, dtype: torch.dtype, at_start: float
    ) -> None:
        self._problem, self._metric, self._inverse_l2, self._dtype = problem, metric, inverse_l2, dtype
        self._scale = _SCALE / at_start
        self._best, self._lowest = torch.empty(0), float("inf")
        self._lowest_gap, self._stalled = float("inf"), 0
        self.iterations, self.passes = 0, 0

    def run(self, weight_KD: Tensor, bias_K: Tensor, max_iterations: int) -> tuple[Tensor, Tensor]:
        """The point reached: within TOLERANCE, or the best one when there was no more progress."""
        root = self._scale**0.5
        point = (self._metric.to(weight_KD, bias_K) * root).requires_grad_()
        history = max(_LEAST_HISTORY, min(_HISTORY, _HISTORY_ELEMENTS // point.numel()))
        optimiser = torch.optim.LBFGS(
            [point], max_iter=max_iterations, history_size=history, line_search_fn="strong_wolfe",
            tolerance_grad=0.0, tolerance_change=0.0,
        )  # fmt: skip

        def closure() -> float:
            value, gap = self._at(point.detach() / root)
            point.grad = self._metric.gradient(value) * (self._scale / root)
            if gap <= TOLERANCE / 2 or self._stalled > _MOST_STALLED:
                raise _Stop
            return self._scale * value.objective

        with suppress(_Stop):
            optimiser.step(closure)  # type: ignore[no-untyped-call]
        self.iterations = int(optimiser.state[point]["n_iter"])
        return self._metric.back(self._best)

    def _at(self, u: Tensor) -> tuple[Value, float]:
        value = self._problem.evaluate(*self._metric.back(u), self._inverse_l2, self._dtype)
        self.passes += 1
        gap = self._metric.gap(value)
        if not np.isfinite(value.objective) or not np.isfinite(gap):
            raise PipelineError(
                f"the probe's objective is {value.objective} at inverse_l2 = {self._inverse_l2:g}. Lower "
                "eval_probe.inverse_l2.highest, or set eval_probe.normalize to true."
            )
        lower = value.objective < (1 - _NOISE[self._dtype]) * self._lowest
        self._stalled = 0 if lower or gap < 0.9 * self._lowest_gap else self._stalled + 1
        self._lowest_gap = min(gap, self._lowest_gap)
        if value.objective < self._lowest or gap <= TOLERANCE / 2:
            self._best, self._lowest = u.clone(), value.objective
        return value, gap
