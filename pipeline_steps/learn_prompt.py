"""NCU phase 1: learn the negative prompt that turns a caption into its hardest negative (Eqs. 3 to 6)."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Start from the reference; train prompt and, where asked, text tower; write both."""
    import torch

    from pipeline_steps.core.schema import LearnPromptConfig, ModelConfig
    from pipeline_steps.methods.ncu.objectives import HardestNegative
    from pipeline_steps.models.clip import load_clip
    from pipeline_steps.models.prompt import PROMPT_FILE, new_prompt, require_prompt
    from pipeline_steps.training.session import PhasePlan, train_checkpoint

    settings = context.section("learn_prompt", LearnPromptConfig)
    bundle = load_clip(context.paths["reference"], context.section("model", ModelConfig).architecture)
    prompt = None
    if settings.negative_text.source == "prompt":
        require_prompt(bundle.model, settings.prompt_vectors)
        generator = torch.Generator().manual_seed(context.seed)
        prompt = new_prompt(bundle.model, settings.prompt_vectors, settings.prompt_init_std, generator)
    plan = PhasePlan(
        "learn_prompt",
        settings.training,
        HardestNegative(settings),
        settings.negative_text,
        prompt,
        settings.prompt_lr,
        settings.prompt_weight_decay,
    )
    train_checkpoint(context, bundle, [plan], None if prompt is None else {PROMPT_FILE: {"prompt": prompt}})


STEP = Step(
    name="learn_prompt",
    summary="NCU phase 1: learn the negative prompt (and tune the text tower).",
    sections=("model", "learn_prompt"),
    inputs={"pairs": "pairs.parquet of build_manifest", "reference": "checkpoint folder to start from"},
    outputs={
        "checkpoint": "folder that open_clip loads, with the prompt beside the weights",
        "history": "parquet of every step's metrics",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
