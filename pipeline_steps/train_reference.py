"""Train the reference CLIP from scratch on the noisy pairs, with the contrastive loss."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Fresh weights by seed, one phase, checkpoint and history."""
    import torch

    from pipeline_steps.core.schema import ModelConfig, TrainReferenceConfig
    from pipeline_steps.methods.continued import Continued
    from pipeline_steps.models.clip import create_clip
    from pipeline_steps.training.session import PhasePlan, train_checkpoint

    settings = context.section("train_reference", TrainReferenceConfig)
    torch.manual_seed(context.seed)
    bundle = create_clip(context.section("model", ModelConfig).architecture)
    plans = [PhasePlan("train_reference", settings.training, Continued())]
    train_checkpoint(context, bundle, plans)


STEP = Step(
    name="train_reference",
    summary="Train the reference CLIP from scratch on the noisy pairs.",
    sections=("model", "train_reference"),
    inputs={"pairs": "pairs.parquet of build_manifest"},
    outputs={"checkpoint": "folder that open_clip loads", "history": "parquet of every step's metrics"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
