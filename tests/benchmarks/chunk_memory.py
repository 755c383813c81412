"""Peak memory of one phase-2 step against the chunk of pairs that is in the towers at once.

`python -m tests.benchmarks.chunk_memory` prints a Markdown table; each case is a process of its own, on the CPU.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from msgspec.structs import replace
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import UnlearnConfig
from pipeline_steps.data.pairs import Batch
from pipeline_steps.methods.ncu.objectives import Unlearning
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.freeze import apply_freeze, set_training_mode
from pipeline_steps.models.prompt import new_prompt
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.update import Learner, train_step
from tests.unit.paths import CONFIG


def measured(architecture: str, pairs: int, chunk: int | None) -> str:
    """The loss of one step, and what it added to the peak memory of this process, MiB."""
    torch.manual_seed(0)
    section = load_section(resolve(read_yaml([CONFIG])), "unlearn", UnlearnConfig)
    training = replace(section.training, batch_size=pairs, chunk_size=chunk)
    bundle = create_clip(architecture)
    apply_freeze(bundle.model, training.freeze)
    set_training_mode(bundle.model, training.freeze)
    prompt = new_prompt(bundle.model, 8, 0.02, torch.Generator().manual_seed(0)).detach()
    learner = Learner(
        bundle.model, build_optimizer(bundle.model, training), Unlearning(section),
        Processes(0, 1, torch.device("cpu")), GradScaler("cpu", enabled=False), prompt,
    )  # fmt: skip
    size = bundle.model.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    tokens = bundle.tokenizer([f"a picture of {row} rivers" for row in range(pairs)])
    batch = Batch(torch.arange(pairs), torch.randn(pairs, 3, side, side), tokens, tokens)
    before = _peak()
    loss = float(train_step(learner, training, batch, 0).output.loss.detach())
    return f"{loss:.5f} {_peak() - before:.0f}"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table, or, with --chunk, measure one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--chunk", type=int, help="0: the whole batch")
    asked = parser.parse_args()
    if asked.chunk is not None:
        print(measured(asked.architecture, asked.pairs, asked.chunk or None))
        return
    print(f"{asked.architecture}, {asked.pairs} pairs, float32, with gradients and optimiser state.\n")
    print("| chunk | loss | MiB |\n|---:|---:|---:|")
    for chunk in (0, asked.pairs // 4):
        command = [sys.executable, "-m", "tests.benchmarks.chunk_memory", "--chunk", str(chunk)]
        command += ["--architecture", asked.architecture, "--pairs", str(asked.pairs)]
        loss, mebibytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        print(f"| {chunk or 'none'} | {loss} | {int(mebibytes):,} |")


if __name__ == "__main__":
    main()
