"""Compute one checkpoint's embeddings of every evaluation set, once, for all evaluations."""

from __future__ import annotations

import sys

import safetensors.numpy
import torch

from pipeline_steps.core.files import whole_file
from pipeline_steps.core.schema import ExtractFeaturesConfig
from pipeline_steps.core.step import Step, StepContext
from pipeline_steps.evaluation.datasets import dataset_row
from pipeline_steps.evaluation.features import Encoder, dataset_features, validation_features
from pipeline_steps.models.clip import best_device, load_clip


def run(context: StepContext) -> None:
    """All sets with one loaded model, into one safetensors file."""
    settings = context.section("extract_features", ExtractFeaturesConfig)
    if context.threads:
        torch.set_num_threads(context.threads)
    rows = {name: dataset_row(context.paths["dataset_table"], name) for name in settings.datasets}
    bundle = load_clip(context.paths["checkpoint"])
    encoder = Encoder(bundle, best_device(), settings.batch_size)
    arrays = validation_features(encoder, context.paths["pairs"])
    metadata = {"logit_scale": repr(bundle.model.logit_scale.exp().item())}
    for name, row in rows.items():
        found, described = dataset_features(encoder, name, row)
        arrays |= found
        metadata |= described
    with whole_file(context.paths["features"]) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata))
    context.run.log_metrics({"arrays": len(arrays)})


STEP = Step(
    name="extract_features",
    summary="Compute one checkpoint's embeddings of every evaluation set.",
    sections=("extract_features",),
    inputs={
        "checkpoint": "folder that open_clip loads",
        "pairs": "pairs.parquet, for its held-out split",
        "dataset_table": "YAML with a row per evaluation set",
    },
    outputs={"features": "safetensors with all embeddings, labels and class names"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
