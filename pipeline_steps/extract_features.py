"""Compute the embeddings of every evaluation set, for several checkpoints at once, into a cache that all share."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.process import keep_freed_memory
from pipeline_steps.core.step import Step, StepContext


def run(context: StepContext) -> None:
    """Fill the cache with what is missing, then write an index per checkpoint."""
    import torch

    from pipeline_steps.core.schema import ExtractFeaturesConfig
    from pipeline_steps.evaluation.datasets.prepared import read_prepared
    from pipeline_steps.evaluation.features.cache import FeatureCache
    from pipeline_steps.evaluation.features.extraction import Checkpoint, Extraction, index_of
    from pipeline_steps.evaluation.features.index import relative_cache
    from pipeline_steps.models.device import best_device
    from pipeline_steps.models.meter import metered

    settings = context.section("extract_features", ExtractFeaturesConfig)
    checkpoints, outputs = context.several["checkpoint"], context.several["features"]
    if len(checkpoints) != len(outputs):
        raise PipelineError(
            f"--checkpoint names {len(checkpoints)} and --features {len(outputs)}: give one for each, in one order"
        )
    if context.threads:
        torch.set_num_threads(context.threads)
    prepared = [read_prepared(folder) for folder in context.several["prepared"]]
    cache = FeatureCache(Path(settings.cache or f"{context.section('results_dir', str)}/features"))
    if torn := cache.remove_torn():
        context.log.info("removed %d half-written files of killed jobs from %s", torn, cache.folder)
    device = best_device()
    if device.type == "cpu":
        keep_freed_memory()
    models = [Checkpoint(folder, settings, device) for folder in checkpoints]
    if "penultimate" in settings.taps:
        for model in models:
            _ = model.encoder  # a tower without that tap is refused before any work
    extraction = Extraction(models, cache, settings, device)
    with metered(context.run, device):
        if "pairs" in context.paths:
            extraction.add_pairs(context.paths["pairs"])
        for found in prepared:
            if found.hole:
                context.log.warning("%s is left out: %s", found.name, found.hole)
            extraction.add_set(found)
    for model, output in zip(models, outputs, strict=True):
        index_of(model, prepared, relative_cache(cache.folder, output)).write(output)
    context.run.log_metrics(extraction.counts)
    counted = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in extraction.counts.items())
    context.log.info("%d checkpoints: %s", len(models), counted)


STEP = Step(
    name="extract_features",
    summary="Compute the embeddings of every evaluation set, for several checkpoints at once.",
    sections=("extract_features", "results_dir"),
    inputs={
        "checkpoint": "folders that open_clip loads",
        "prepared": "folders of prepare_dataset, one per evaluation set",
        "pairs": "optional: pairs.parquet, for its held-out split",
    },
    outputs={"features": "an index (JSON) per checkpoint, in their order; the embeddings themselves go into the cache"},
    run=run,
    several=("checkpoint", "prepared", "features"),
    reads={"prepared": ("dataset.json",)},
)

if __name__ == "__main__":
    sys.exit(STEP.main())
