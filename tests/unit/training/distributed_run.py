"""Run under torchrun by test_distributed.py: some steps of phase 2, and what came out, written by the first process."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipeline_steps.data.pairs import Batch
from pipeline_steps.training.distributed import process_group
from pipeline_steps.training.update import train_step
from tests.unit.training import tiny


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk-size", type=int)
    parser.add_argument("--gather", default="exact")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # The gradient of a key bias is zero but for rounding, which Adam with an epsilon of 1e-6 would make into steps.
    training = tiny.settings(
        chunk_size=arguments.chunk_size, gather=arguments.gather, grad_clip_norm=None, adam_epsilon=1e-4
    )
    with process_group() as processes:
        own_folder = arguments.folder / f"rank{processes.rank}"
        own_folder.mkdir(parents=True)
        learner = tiny.learner(own_folder, training, tiny.unlearning(), processes)
        losses, first = [], {}
        for step in range(arguments.steps):
            whole, rows = tiny.batch(step), processes.share(16)
            own = Batch(whole.rows[rows], whole.images[rows], whole.tokens[rows], whole.tokens[rows])
            losses.append(float(train_step(learner, training, own, step).output.loss.detach()))
            if step == 0:
                named = [*learner.model.named_parameters(), ("prompt", learner.prompt)]
                first = {name: one.grad.clone() for name, one in named if one is not None and one.grad is not None}
        if processes.leads:
            weights = {**learner.model.state_dict(), "prompt": learner.prompt.detach()}  # type: ignore[union-attr]
            found = {"gradients": first, "weights": weights}
            on_cpu = {kind: {name: one.cpu() for name, one in named.items()} for kind, named in found.items()}
            torch.save({"losses": losses, **on_cpu}, arguments.folder / "result.pt")


if __name__ == "__main__":
    main()
