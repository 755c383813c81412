"""NCU phase 2: unlearn the noisy correspondence by masked optimal transport (Eqs. 8 to 12)."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Start from phase 1's model; the prompt is frozen."""
    from pipeline_steps.core.schema import ModelConfig, UnlearnConfig
    from pipeline_steps.methods.ncu.objectives import Unlearning
    from pipeline_steps.models.clip import load_clip
    from pipeline_steps.models.prompt import PROMPT_FILE, load_prompt
    from pipeline_steps.training.session import PhasePlan, train_checkpoint

    settings = context.section("unlearn", UnlearnConfig)
    bundle = load_clip(context.paths["learned"], context.section("model", ModelConfig).architecture)
    prompt = load_prompt(context.paths["learned"], bundle.model) if settings.negative_text.source == "prompt" else None
    plan = PhasePlan("unlearn", settings.training, Unlearning(settings), settings.negative_text, prompt)
    train_checkpoint(context, bundle, [plan], None if prompt is None else {PROMPT_FILE: {"prompt": prompt}})


STEP = Step(
    name="unlearn",
    summary="NCU phase 2: unlearn the noisy correspondence by masked optimal transport.",
    sections=("model", "unlearn"),
    inputs={"pairs": "pairs.parquet of build_manifest", "learned": "checkpoint folder of learn_prompt"},
    outputs={"checkpoint": "folder that open_clip loads", "history": "parquet of every step's metrics"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
