"""CLIPCleaner: choose the samples of a labelled set whose labels are clean, with one CLIP checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_steps.core.files import write_json
from pipeline_steps.core.step import Step, StepContext

if TYPE_CHECKING:
    from pipeline_steps.core.schema import SelectCleanConfig
    from pipeline_steps.data.labels import NoisyLabels
    from pipeline_steps.evaluation.features.index import Features


def run(context: StepContext) -> None:
    """Score every sample, let the rules vote, fill classes that would be empty, and report against the truth."""
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    from pipeline_steps.core.schema import InjectLabelNoiseConfig, SelectCleanConfig
    from pipeline_steps.data.labels import read_labels
    from pipeline_steps.data.parquet_file import write_parquet
    from pipeline_steps.evaluation.features.index import Features
    from pipeline_steps.methods.clipcleaner.selection import select, top_share
    from pipeline_steps.reporting.selection_report import selection_report

    settings = context.section("select_clean", SelectCleanConfig)
    dataset = str(context.section("inject_label_noise", InjectLabelNoiseConfig).dataset)
    features, labels = Features(context.paths["features"]), read_labels(context.paths["labels"])
    classes = features.class_names(dataset)
    with threadpool_limits(context.threads or None):
        raw = _scores(context, settings, features, dataset, labels)
    found = select(raw, labels.label, settings, classes=len(classes), seed=context.seed)
    share = float(found.selected_N.mean())
    equal = {rule: top_share(found.judged[rule], share, score) for rule, score in raw.items()}
    columns: dict[str, Any] = {f"{rule}_probability": found.judged[rule] for rule in raw if rule.endswith("_loss")}
    columns |= {"votes": found.votes_N, "selected": found.selected_N}
    chosen = pa.table({"row": labels.row, "label": labels.label, **raw, **columns})
    write_parquet(context.paths["selection"], chosen)
    report = selection_report(
        found.selected_N, found.picks, equal, found.judged, labels.is_clean, labels.label, classes
    )
    write_json(context.paths["report"], report)
    context.run.log_metrics({f"selection/{name}": value for name, value in report["selection"].items()})
    context.run.log_file(context.paths["report"])
    context.log.info("selected: %s", report["selection"])


def _scores(
    context: StepContext, settings: SelectCleanConfig, features: Features, dataset: str, labels: NoisyLabels
) -> dict[str, Any]:
    """Every score by its rule, (N,); the loss scores are log p of the label, scaled within its class."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from pipeline_steps.evaluation.class_prompts import class_prompts
    from pipeline_steps.evaluation.features.encoder import Encoder
    from pipeline_steps.methods.clipcleaner.posteriors import (
        batch_confidence,
        label_scores,
        regression_log_posterior,
        zeroshot_log_posterior,
    )
    from pipeline_steps.methods.clipcleaner.selection import scaled_in_class
    from pipeline_steps.models.device import best_device

    image = features.matrix(f"{dataset}/train/image")[labels.row]
    encoder = Encoder(context.paths["checkpoint"], best_device(), batch_size=256, taps=["projected"])
    phrases = Path(settings.class_features) if settings.class_features else None
    prompts = class_prompts(settings.prompt, features.class_names(dataset), phrases)
    owner = np.repeat(np.arange(len(prompts)), [len(one) for one in prompts])
    text = F.normalize(torch.from_numpy(encoder.texts([text for one in prompts for text in one])), dim=1).numpy()
    scale = encoder.logit_scale if settings.temperature is None else 1 / settings.temperature
    zeroshot = zeroshot_log_posterior(image, text, owner, logit_scale=scale, pooling=settings.pooling)
    regression = regression_log_posterior(image, labels.label, settings, context.seed)
    found: dict[str, Any] = {}
    for name, log_posterior in (("zeroshot", zeroshot), ("regression", regression)):
        own, consistency = label_scores(log_posterior, labels.label)
        found |= {f"{name}_loss": scaled_in_class(own, labels.label), f"{name}_consistency": consistency}
    class_text = np.stack([text[owner == one].mean(axis=0) for one in range(len(prompts))])
    found["confidence"] = batch_confidence(
        image, class_text / np.linalg.norm(class_text, axis=1, keepdims=True), labels.label, logit_scale=scale,
        batch_size=settings.confidence_batch, seed=context.seed,
    )  # fmt: skip
    return found


STEP = Step(
    name="select_clean",
    summary="CLIPCleaner: choose the samples of a labelled set whose labels are clean.",
    sections=("select_clean", "inject_label_noise"),
    inputs={
        "features": "features.json of extract_features",
        "checkpoint": "the checkpoint folder that they are of, for its text tower",
        "labels": "labels.parquet of inject_label_noise",
    },
    outputs={"selection": "parquet: row, label, every score, votes, selected", "report": "JSON: against the truth"},
    run=run,
)

if __name__ == "__main__":
    sys.exit(STEP.main())
