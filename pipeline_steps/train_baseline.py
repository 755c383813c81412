"""Train a baseline from the reference at exactly NCU's compute: the same two phases, another loss."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext

PHASES = ("learn_prompt", "unlearn")


def run(context: StepContext) -> None:
    """Epochs, schedule, batch, freezing and augmentation of NCU's phases, in their order."""
    from pipeline_steps.core.schema import ModelConfig, TrainBaselineConfig, TrainingConfig
    from pipeline_steps.methods import baseline_objective
    from pipeline_steps.models.clip import load_clip
    from pipeline_steps.training.session import PhasePlan, train_checkpoint

    objective = baseline_objective(context.method, context.section("train_baseline", TrainBaselineConfig))
    bundle = load_clip(context.paths["reference"], context.section("model", ModelConfig).architecture)
    plans = [
        PhasePlan(f"as_{phase}", context.section(f"{phase}.training", TrainingConfig), objective) for phase in PHASES
    ]
    train_checkpoint(context, bundle, plans)


STEP = Step(
    name="train_baseline",
    summary="Train a baseline (--method) from the reference at exactly NCU's compute.",
    sections=("model", "train_baseline", "learn_prompt.training", "unlearn.training"),
    inputs={"pairs": "pairs.parquet of build_manifest", "reference": "checkpoint folder to start from"},
    outputs={"checkpoint": "folder that open_clip loads", "history": "parquet of every step's metrics"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
