"""Print what the jobs of a dry run would cost: by stage, jobs, GPU-hours and disk. Snakemake ends `-n` with it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_steps.core.config import load_config, read_yaml
from pipeline_steps.core.cost import FLOAT, counted, training_operations
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import write_json
from pipeline_steps.core.methods import METHODS
from pipeline_steps.core.schema import Config
from pipeline_steps.data.list_size import known_pairs
from pipeline_steps.reporting.bill import Item, bill

_PICTURE_GUESS = 100_000  # bytes of a picture of an evaluation set
_TAP_WIDTH = {"projected": 1.0, "penultimate": 1.5}  # of an embedding's, about


def main(argv: Sequence[str] | None = None) -> int:
    """Read the jobs as JSON from standard input and print the bill. Returns 0, or 1 after an error.

    Where PIPELINE_REQUESTS in the environment names a file, the JSON goes there instead (for check_cluster).
    """
    argparse.ArgumentParser(prog="python -m pipeline_steps.show_bill", description=__doc__).parse_args(argv)
    told = json.load(sys.stdin)
    if requests := os.environ.get("PIPELINE_REQUESTS"):
        write_json(Path(requests), told)
        return 0
    try:
        pairs = known_pairs(config := load_config(told["config"]))
        items = [_item(told["config"], job, pairs) for job in told["jobs"]]
        print(bill(items, pairs, config.show_bill.tflops_per_gpu))
    except PipelineError as error:
        print(f"show_bill: {error}", file=sys.stderr)
        return 1
    return 0


def _item(raw: dict[str, Any], job: dict[str, Any], pairs: int | None) -> Item:
    config, stage = load_config(raw, job["method"]), job["stage"]
    return Item(
        stage=stage,
        gpus=job["gpus"],
        limit_minutes=job["runtime"],
        operations=_operations(config, stage, pairs, job["checkpoints"]) if job["gpus"] else 0.0,
        disk_bytes=_disk(config, stage, pairs, job),
    )


def _operations(config: Config, stage: str, pairs: int | None, checkpoints: int) -> float | None:
    """Operations of a job, where the pairs are known."""
    model = counted(config.model.architecture)
    if stage == "extract_features":
        return checkpoints * _pictures(config) * model.image_operations
    if pairs is None:
        return None
    train = int(pairs * (1 - config.build_manifest.validation_fraction))
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
    if stage in {method.stage for method in METHODS.values()} | {"learn_prompt", "import_reference", "export_model"}:
        return counted(config.model.architecture).parameters * FLOAT
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
