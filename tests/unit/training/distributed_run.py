"""Run by test_distributed.py: some steps of phase 2 in several groups of processes, one after the other.

The libraries are loaded once: every process is a fork of this one, started by torchrun's own agent. What came out is
written by the first process of each group.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline_steps.data.pairs import Batch
from pipeline_steps.training.distributed import Processes, process_group
from pipeline_steps.training.update import train_step
from tests.unit.training import tiny

STEPS = 3
# machines, processes on each, and what they train in turn: a name, and what differs from the settings
GROUPS: dict[str, tuple[int, int, dict[str, dict[str, Any]]]] = {
    "one": (1, 1, {"alone": {}, "nudged": {"nudged": True}}),
    "two": (1, 2, {"two": {}, "two_in_chunks": {"chunk_size": 3}, "two_official": {"gather": "official"}}),
    "four": (1, 4, {"four": {}}),
    "machines": (2, 2, {"two_machines_of_two": {}}),
}


def train(processes: Processes, *, nudged: bool = False, **changes: Any) -> dict[str, Any]:
    """The losses, the gradients of the first step, and what all steps added to the weights."""
    # The gradient of a key bias is zero but for rounding, which Adam with an epsilon of 1e-6 would make into steps.
    training = tiny.settings(grad_clip_norm=None, adam_epsilon=1e-2, **changes)
    learner = tiny.learner(training, tiny.unlearning(), processes)
    named = {**dict(learner.model.named_parameters()), "prompt": learner.prompt}
    before = {name: one.detach().clone() for name, one in named.items()}
    if nudged:
        tiny.nudge(named.values())
    losses, first = [], {}
    for step in range(STEPS):
        whole, rows = tiny.batch(step), processes.share(16)
        own = Batch(whole.rows[rows], whole.images[rows], whole.tokens[rows], whole.tokens[rows])
        losses.append(float(train_step(learner, training, own, step).output.loss.detach()))
        if step == 0:
            first = {name: one.grad.cpu().clone() for name, one in named.items() if one.grad is not None}
    moved = {name: (one.detach() - before[name]).cpu() for name, one in named.items()}
    return {"losses": {"all": torch.tensor(losses)}, "gradients": first, "moved": moved}


def work(folder: Path, runs: dict[str, dict[str, Any]]) -> None:
    """One process of a group."""
    torch.set_num_threads(1)
    with process_group() as processes:
        for name, changes in runs.items():
            result = train(processes, **changes)
            if processes.leads:
                torch.save(result, folder / f"{name}.pt")


def machine(number: int, machines: int, processes: int, port: int, folder: Path, runs: dict[str, Any]) -> None:
    """What `torchrun --nnodes machines --node-rank number --nproc-per-node processes` does."""
    config = LaunchConfig(
        min_nodes=machines, max_nodes=machines, nproc_per_node=processes, rdzv_backend="static",
        rdzv_endpoint=f"127.0.0.1:{port}", rdzv_configs={"rank": number, "timeout": 120}, run_id="test",
        max_restarts=0, monitor_interval=0.05, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, work)(folder, runs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tiny.model()  # every fork has it then
    fork = multiprocessing.get_context("fork")
    for group in arguments.groups:
        machines, processes, runs = GROUPS[group]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if machines * processes == 1:
            started = [fork.Process(target=work, args=(arguments.folder, runs))]
        else:
            parts = [(number, machines, processes, port, arguments.folder, runs) for number in range(machines)]
            started = [fork.Process(target=machine, args=part) for part in parts]
        for one in started:
            one.start()
        for one in started:
            one.join()
        if any(one.exitcode for one in started):
            raise SystemExit(f"{group}: exit codes {[one.exitcode for one in started]}")


if __name__ == "__main__":
    main()
