"""Time and memory of NCU's second phase against batch size: ours, a textbook's, and ours with POT as the solver.

    python -m tests.benchmarks.objective            # what `make bench` runs

Forward and backward of one batch: confidence, forget set, plan, targets, loss, gradients of the image, text and
negative embeddings and of the scale. The cases run in turns; a table is printed and written with a plot to --out.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import ot
import torch
from torch import Tensor

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import TransportConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.ncu import objectives
from pipeline_steps.methods.ncu.transport import TransportPlan, masked_cost
from tests.benchmarks.batches import unit_batch
from tests.benchmarks.measure import Samples, machine_in_words, run_once
from tests.benchmarks.objective_report import write_report
from tests.benchmarks.textbook import textbook_unlearning
from tests.unit.paths import CONFIG, REPOSITORY

DIMENSIONS = 512
BLOCKED_COST = 1e3
CASES = ("ours", "textbook", "pot")
Results = dict[tuple[str, str, int], Samples]


@dataclass(frozen=True)
class Plan:
    """What to run: batch sizes, runs per case, the device, and how many seconds one run or one case may take."""

    sizes: list[int]
    repeats: int
    device: torch.device
    run_limit: float
    case_limit: float


def main(arguments: list[str] | None = None) -> None:
    """Run every case at every size, print the Markdown tables, write them and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--repeats", type=int, default=5, help="runs per case and size, fewer where a run is long")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    parser.add_argument(
        "--run-limit", type=float, default=40, help="seconds: a larger size that would take more is out"
    )
    parser.add_argument(
        "--case-limit", type=float, default=25, help="seconds that the runs of a case and size may take"
    )
    given = parser.parse_args(arguments)
    plan = Plan(sorted(given.sizes), given.repeats, given.device, given.run_limit, given.case_limit)
    results = measure("structured", CASES, plan)
    at = [size for size in plan.sizes if size <= 2048][-1:]
    results |= measure("diffuse", ("ours", "pot"), Plan(at, plan.repeats, plan.device, plan.run_limit, plan.case_limit))
    print(write_report(results, given.out, machine_in_words(plan.device), plan.run_limit))


def measure(kind: str, names: tuple[str, ...], plan: Plan) -> Results:
    """Runs of every case at every size, in turns: one run each, in an order that is turned round every time."""
    settings = load_section(resolve(read_yaml([CONFIG])), "unlearn", UnlearnConfig)
    results: Results = {}
    for name in names:
        run_once(_call(name, unit_batch(64, 16, kind=kind, device=plan.device), settings), Samples(), plan.device)
    for size in plan.sizes:
        batch = unit_batch(size, DIMENSIONS, kind=kind, device=plan.device)
        calls = {name: _call(name, batch, settings) for name in names if _fits(results, (kind, name, size), plan)}
        for name, call in calls.items():
            run_once(call, results.setdefault((kind, name, size), Samples()), plan.device)
        for turn in range(1, plan.repeats):
            for name in list(calls)[:: 1 if turn % 2 else -1]:
                samples = results[kind, name, size]
                if samples.seconds[0] * (turn + 1) <= plan.case_limit:
                    run_once(calls[name], samples, plan.device)
    return results


def pot_plan(sim_NM: Tensor, forget_N: Tensor, settings: TransportConfig) -> TransportPlan:
    """Eq. 9 by POT's Sinkhorn in float32 kernel form; masked places cost so much that their kernel is zero."""
    cost_NM = masked_cost(sim_NM, forget_N, normalize=settings.normalize_cost)
    cost_NM.masked_fill_(cost_NM.isinf(), BLOCKED_COST)
    rows, columns = cost_NM.shape
    row_N, column_M = torch.full_like(cost_NM[:, 0], 1 / rows), torch.full_like(cost_NM[0], 1 / columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it ended at numItermax: the error in the table says so
        plan_NM, log = ot.sinkhorn(
            row_N, column_M, cost_NM, settings.epsilon,
            numItermax=settings.max_iterations, stopThr=settings.tolerance / columns, log=True,
        )  # fmt: skip
    error = max(float((plan_NM.sum(1) * rows - 1).abs().max()), float((plan_NM.sum(0) * columns - 1).abs().max()))
    return TransportPlan(plan_NM, int(log["niter"]) + 1, error, seconds=0.0)


def _call(name: str, batch: Embeddings, settings: UnlearnConfig) -> Callable[[], dict[str, float]]:
    if name == "textbook":
        return partial(_textbook, batch, settings)
    return partial(_ours, batch, settings, objectives.masked_plan if name == "ours" else pot_plan)


def _textbook(batch: Embeddings, settings: UnlearnConfig) -> dict[str, float]:
    loss, error = textbook_unlearning(batch, settings)
    _backward(loss, batch)
    return {"loss": float(loss.detach()), "error": error, "iterations": 200.0}


def _ours(batch: Embeddings, settings: UnlearnConfig, solver: Callable[..., TransportPlan]) -> dict[str, float]:
    with mock.patch.object(objectives, "masked_plan", solver):
        output = objectives.Unlearning(settings)(batch)
    _backward(output.loss, batch)
    terms = {name.removeprefix("transport/"): float(value) for name, value in output.terms.items()}
    return {
        "loss": float(output.loss.detach()),
        "error": terms["marginal_error"],
        "iterations": terms["iterations"],
        "transport": terms["seconds"],
    }


def _backward(loss: Tensor, batch: Embeddings) -> None:
    torch.autograd.grad(loss, [batch.image_ND, batch.text_ND, batch.negatives(), batch.logit_scale])


def _fits(results: Results, key: tuple[str, str, int], plan: Plan) -> bool:
    """Whether a run at this size stays under the limit: as the last size took, and the square of the sizes' ratio."""
    kind, name, size = key
    before = [(other, results[kind, name, other].median) for other in plan.sizes if (kind, name, other) in results]
    if name == "ours" or not before:
        return True
    last_size, seconds = before[-1]
    return seconds * (size / last_size) ** 2 <= plan.run_limit


if __name__ == "__main__":
    main()
