"""NPC: fine-tune the reference on pairs weighed by what a step on them does to the clean pairs of its memory bank."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """One phase; a batch comes with two clean pairs for each of its own."""
    from pipeline_steps.core.schema import ModelConfig, TrainNpcConfig
    from pipeline_steps.methods.continued import Continued
    from pipeline_steps.models.clip import load_clip
    from pipeline_steps.training.session import PhasePlan, train_checkpoint
    from pipeline_steps.training.siamese import SiameseStepper

    settings = context.section("train_npc", TrainNpcConfig)
    bundle = load_clip(context.paths["reference"], context.section("model", ModelConfig).architecture)
    plan = PhasePlan(
        "npc", settings.training, Continued(), stepper=SiameseStepper(settings), bank=context.paths["bank"]
    )  # fmt: skip
    train_checkpoint(context, bundle, [plan])


STEP = Step(
    name="train_npc",
    summary="NPC: fine-tune on pairs weighed by their effect on the clean pairs of a memory bank.",
    sections=("model", "train_npc"),
    inputs={
        "pairs": "pairs.parquet of build_manifest",
        "reference": "checkpoint folder to start from",
        "bank": "bank.parquet of build_memory_bank",
    },
    outputs={"checkpoint": "folder that open_clip loads", "history": "parquet of every step's metrics"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
