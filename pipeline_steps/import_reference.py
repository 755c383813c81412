"""Take the reference CLIP from a checkpoint that somebody else trained, instead of training it."""

from __future__ import annotations

import sys

from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Read the weights as data, load them strictly, and write them with their preprocessing and provenance."""
    from msgspec.structs import replace

    from pipeline_steps.core.schema import ImportReferenceConfig, ModelConfig
    from pipeline_steps.models.checkpoints import import_clip
    from pipeline_steps.models.clip import save_clip

    settings = context.section("import_reference", ImportReferenceConfig)
    if "weights" in context.paths:
        settings = replace(settings, weights=str(context.paths["weights"]))
    imported = import_clip(settings, context.section("model", ModelConfig).architecture)
    save_clip(context.paths["checkpoint"], imported.bundle, imported.extra_tensors)
    provenance = imported.bundle.provenance
    context.run.set_tags({f"provenance.{name}": value for name, value in provenance.items()})
    context.log.info("imported %s", ", ".join(f"{name} {value}" for name, value in provenance.items()))


STEP = Step(
    name="import_reference",
    summary="Import the reference CLIP from a file or an open_clip tag.",
    sections=("model", "import_reference"),
    inputs={"weights": "optional: the checkpoint file (else import_reference.weights, a file or a tag)"},
    outputs={"checkpoint": "folder that open_clip loads"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
