"""What a job of a dry run would cost: operations and disk, from its stage and the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.core.cost import FLOAT, counted, npc_operations, training_operations
from pipeline_steps.core.methods import CLASSIFIER, METHODS
from pipeline_steps.core.schema import Config
from pipeline_steps.reporting.bill import Item

_PICTURE_GUESS = 100_000  # bytes of a picture of an evaluation set
_TAP_WIDTH = {"projected": 1.0, "penultimate": 1.5}  # of an embedding's, about


def item_of(raw: dict[str, Any], job: dict[str, Any], pairs: int | None) -> Item:
    """A job of a dry run as an item of its bill: `raw` is the configuration, `pairs` how many there are, if known."""
    config, stage = load_config(raw, job["method"]), job["stage"]
    return Item(
        stage=stage,
        gpus=job["gpus"],
        limit_minutes=job["runtime"],
        operations=_operations(config, stage, pairs, job["checkpoints"]) if job["gpus"] else 0.0,
        disk_bytes=_disk(config, stage, pairs, job),
    )


def _operations(config: Config, stage: str, pairs: int | None, checkpoints: int) -> float | None:
    """Operations of a job, where they are known; those of a classifier are not counted."""
    if stage == CLASSIFIER:
        return None
    model = counted(config.model.architecture)
    if stage == "extract_features":
        return checkpoints * _pictures(config) * model.image_operations
    if pairs is None:
        return None
    train = int(pairs * (1 - config.build_manifest.validation_fraction))
    if stage == "build_memory_bank":
        return train * (model.image_operations + model.text_operations)
    if stage == "train_npc":
        return npc_operations(config.train_npc.training, model, train)
    phases = {
        "train_reference": (config.train_reference.training,),
        "learn_prompt": (config.learn_prompt.training,),
        "unlearn": (config.unlearn.training,),
        "train_baseline": (config.learn_prompt.training, config.unlearn.training),
    }.get(stage, ())
    texts = 2 if stage in ("learn_prompt", "unlearn") else 1
    return sum(training_operations(phase, model, train, texts) for phase in phases)


def _pictures(config: Config, datasets: Sequence[str] | None = None) -> int:
    """Pictures of the evaluation sets, as far as their rows say."""
    table = read_yaml([Path(config.prepare_dataset.table)])
    names = config.prepare_dataset.datasets if datasets is None else datasets
    return sum(count or 0 for name in names for count in table[name]["n"].values())


def _disk(config: Config, stage: str, pairs: int | None, job: dict[str, Any]) -> float:
    """Bytes that a job leaves, about."""
    if stage == "download_images":
        side, jobs = config.download_images.image_size, config.download_images.jobs
        part = (pairs or 0) * (side * side + 3 * 4096) / jobs
        return 0.0 if jobs > 1 and job["rule"] == stage else part  # which links to what the parts left
    if stage == "prepare_dataset":
        return _pictures(config, [job["dataset"]]) * _PICTURE_GUESS
    if stage == "extract_features":
        width = counted(config.model.architecture).embedding_width
        taps = sum(_TAP_WIDTH[tap] for tap in config.extract_features.taps)
        return float(job["checkpoints"] * _pictures(config) * taps * width * FLOAT)
    trained = {method.stage for method in METHODS.values()} - {CLASSIFIER}
    if stage in trained | {"learn_prompt", "import_reference", "export_model"}:
        return counted(config.model.architecture).parameters * FLOAT
    return 0.0
