"""Run by test_kill.py: a training in child processes that are killed (SIGKILL) at many moments, until one ends.

The moments are times after the start, and the sight of a state or of a checkpoint being written.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section
from pipeline_steps.core.record import Run
from pipeline_steps.core.schema import LearnPromptConfig, UnlearnConfig
from pipeline_steps.core.step import StepContext
from pipeline_steps.methods.ncu.objectives import HardestNegative, Unlearning
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.prompt import PROMPT_FILE, new_prompt
from pipeline_steps.training.session import PhasePlan, train_checkpoint
from tests.unit.training import tiny


def train(folder: Path, pairs: Path) -> None:
    torch.set_num_threads(1)
    paths = {"pairs": pairs, "checkpoint": folder / "checkpoint", "history": folder / "history.parquet"}
    log = logging.getLogger("pipeline_steps")
    context = StepContext(paths, tiny.RAW, "ncu", 0, 1, Run(None, "mine"), log)
    torch.manual_seed(0)
    bundle = create_clip(str(folder / "tiny_vit.json"))
    prompt = new_prompt(bundle.model, 2, 0.02, torch.Generator().manual_seed(0))
    training = tiny.settings(epochs=10, batch_size=8, save_minutes=0, selection="validation")
    learn = load_section(tiny.RAW, "learn_prompt", LearnPromptConfig)
    unlearn = load_section(tiny.RAW, "unlearn", UnlearnConfig)
    plans = [
        PhasePlan("first", training, HardestNegative(learn), learn.negative_text, prompt, 1e-3, 0.1),
        PhasePlan(
            "second", replace(training, precision="fp16"), Unlearning(unlearn), unlearn.negative_text, prompt.detach()
        ),
    ]
    train_checkpoint(context, bundle, plans, {PROMPT_FILE: {"prompt": prompt}})


def after(seconds: float) -> Callable[[Path], bool]:
    end = time.monotonic() + seconds
    return lambda folder: time.monotonic() >= end


def at_sight_of(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: any(folder.glob(pattern))


def attempt(folder: Path, pairs: Path, moment: Callable[[Path], bool]) -> bool:
    """Whether the child ended by itself before the moment came."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(folder, pairs))
    child.start()
    while child.is_alive() and not moment(folder):
        time.sleep(0.0005)
    ended = not child.is_alive()
    child.kill()
    child.join()
    if ended and child.exitcode != 0:
        raise SystemExit(f"the training failed with {child.exitcode}")
    return ended


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    # Dropped patches draw random numbers in every step, and the second phase scales its loss.
    tiny.architecture(arguments.folder, patch_dropout=0.5)
    killed = {"time": 0, "state": 0, "checkpoint": 0}
    state, checkpoint = ".checkpoint.resume.*.partial", ".checkpoint.????????????????*.partial/*"
    moments = [("time", number) if number % 2 else ("state", number) for number in range(arguments.kills)]
    for kind, number in [*moments, ("checkpoint", 0), ("checkpoint", 1)] if moments else []:
        pattern = state if kind == "state" else checkpoint
        moment = after(0.1 + 0.03 * number) if kind == "time" else at_sight_of(pattern)
        if attempt(arguments.folder, arguments.pairs, moment):
            break
        killed[kind] += 1
    while not attempt(arguments.folder, arguments.pairs, after(300)):
        pass
    (arguments.folder / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main()
