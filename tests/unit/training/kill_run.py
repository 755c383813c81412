"""Run by test_kill.py: a training in child processes that are killed (SIGKILL) at many moments, until one ends.

The moments are times after a state was kept, and the sight of a state or of a checkpoint being written.
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

STATES = "checkpoint.resume*.pt"


def train(folder: Path, pairs: Path) -> None:
    torch.set_num_threads(1)
    paths = {"pairs": pairs, "checkpoint": folder / "checkpoint", "history": folder / "history.parquet"}
    log = logging.getLogger("pipeline_steps")
    context = StepContext(paths, tiny.RAW, "ncu", 0, 1, Run(None, "mine"), log)
    torch.manual_seed(0)
    bundle = create_clip(str(folder / "tiny_vit.json"))
    prompt = new_prompt(bundle.model, 2, 0.02, torch.Generator().manual_seed(0))
    training = tiny.settings(epochs=4, batch_size=8, save_minutes=0, selection="validation")
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


def after_state(folder: Path, seconds: float) -> Callable[[Path], bool]:
    """So long after the sight of a state that was not there when the attempt began."""

    def kept() -> set[tuple[str, int]]:
        return {(path.name, path.stat().st_ino) for path in folder.glob(STATES)}

    before, seen = kept(), [0.0]

    def moment(folder: Path) -> bool:
        if not seen[0] and kept() - before:
            seen[0] = time.monotonic()
        return bool(seen[0]) and time.monotonic() >= seen[0] + seconds

    return moment


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
    parser.add_argument("--kills", nargs="*", default=[], choices=["time", "state", "checkpoint"])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    # Dropped patches draw random numbers in every step, and the second phase scales its loss.
    tiny.architecture(arguments.folder, patch_dropout=0.5)
    killed = {"time": 0, "state": 0, "checkpoint": 0}
    partial = {"state": ".checkpoint.resume.*.partial", "checkpoint": ".checkpoint.????????????????*.partial/*"}
    for kind in arguments.kills:
        # half a step after a state, further each time, so that the second phase is reached too
        moment = after_state(arguments.folder, 0.1 * killed["time"]) if kind == "time" else at_sight_of(partial[kind])
        if attempt(arguments.folder, arguments.pairs, moment):
            break
        killed[kind] += 1
    while not attempt(arguments.folder, arguments.pairs, after(300)):
        pass
    (arguments.folder / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main()
