"""NPC's memory bank: the clean training pairs, and for every pair the nearest of them by image and by caption."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_steps.core.files import write_json
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_steps.evaluation.features.pair_embeddings import PairEmbeddings


def run(context: StepContext) -> None:
    """Embed the training pairs with the reference, divide them by their losses, and find each one's neighbours."""
    import numpy as np
    import pyarrow as pa
    import torch

    from pipeline_steps.core.schema import BuildMemoryBankConfig
    from pipeline_steps.data.bank import IMAGE_NEIGHBOUR, TEXT_NEIGHBOUR
    from pipeline_steps.data.manifest import TRUTH_COLUMNS, training_rows
    from pipeline_steps.data.parquet_file import write_parquet
    from pipeline_steps.evaluation.features.extraction import PICTURE_COLUMNS
    from pipeline_steps.methods.npc.memory_bank import nearest_clean, pair_losses
    from pipeline_steps.methods.npc.mixture import clean_probability
    from pipeline_steps.training.monitor import ForgetSetMonitor

    settings = context.section("build_memory_bank", BuildMemoryBankConfig)
    columns = [*PICTURE_COLUMNS, "caption", TRUTH_COLUMNS[0]]
    rows = training_rows(context.paths["pairs"], settings.pairs, columns)
    found = _embedded(context, rows)
    loss = pair_losses(
        found.image_UD[found.image_P], found.text_UD[found.text_P], logit_scale=found.logit_scale,
        batch_size=settings.batch_size, seed=context.seed,
    )  # fmt: skip
    probability = clean_probability(loss, settings.mixture, context.seed)
    is_clean = probability > settings.clean_threshold
    images, texts = (
        nearest_clean(feature, own, probability, is_clean, exclude_self=settings.exclude_self, index=settings.index)
        for feature, own in ((found.image_UD, found.image_P), (found.text_UD, found.text_P))
    )
    neighbours = {IMAGE_NEIGHBOUR: images.row_P, TEXT_NEIGHBOUR: texts.row_P}
    write_parquet(context.paths["bank"], pa.table(neighbours | {"loss": loss, "clean_probability": probability}))
    monitor = ForgetSetMonitor(torch.from_numpy(rows[TRUTH_COLUMNS[0]].to_numpy()))
    told = monitor.metrics(torch.arange(len(loss)), torch.from_numpy(~is_clean), torch.from_numpy(probability))
    agreement = {"image_agreement": images.agreement, "text_agreement": texts.agreement}
    report = {"pairs": len(loss), "clean": int(is_clean.sum()), **agreement, **told}
    for side, nearest in (("image", images), ("text", texts)):
        times = np.unique(nearest.row_P, return_counts=True)[1]
        report |= {f"{side}_distinct_neighbours": len(times), f"{side}_most_often": int(times.max())}
    write_json(context.paths["report"], report)
    context.run.log_metrics({name: float(value) for name, value in report.items()})
    context.run.log_file(context.paths["report"])
    context.log.info("%d of %d pairs are taken for clean", report["clean"], report["pairs"])


def _embedded(context: StepContext, rows: pa.Table) -> PairEmbeddings:
    import faiss
    import torch

    from pipeline_steps.core.schema import ExtractFeaturesConfig
    from pipeline_steps.evaluation.features.cache import FeatureCache
    from pipeline_steps.evaluation.features.extraction import Checkpoint, Extraction
    from pipeline_steps.evaluation.features.pair_embeddings import embed_pairs
    from pipeline_steps.models.device import best_device
    from pipeline_steps.models.meter import metered

    settings = context.section("extract_features", ExtractFeaturesConfig)
    if context.threads:
        torch.set_num_threads(context.threads)
        faiss.omp_set_num_threads(context.threads)
    device = best_device()
    cache = FeatureCache(Path(settings.cache or f"{context.section('results_dir', str)}/features"))
    extraction = Extraction([Checkpoint(context.paths["reference"], settings, device)], cache, settings, device)
    with metered(context.run, device):
        return embed_pairs(extraction, context.paths["pairs"], rows)


STEP = Step(
    name="build_memory_bank",
    summary="NPC's memory bank: the clean training pairs, and every pair's nearest ones.",
    sections=("build_memory_bank", "extract_features", "results_dir"),
    inputs={"pairs": "pairs.parquet of build_manifest", "reference": "checkpoint folder that tells clean from noisy"},
    outputs={
        "bank": "parquet, a row per training pair: rows of its neighbours, loss, probability to be clean",
        "report": "JSON: how many are clean, and against the injected noise, how well they were told",
    },
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
