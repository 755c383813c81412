"""What the runs of an experiment took, by stage: every attempt counts, also those that were killed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities import Run

from pipeline_steps.core.tracking.store import STORE_ERRORS, connect, is_there, require_answer, search


@dataclass(frozen=True)
class StageCost:
    """The runs of a stage: wall seconds, GPU-hours, the energy of their GPUs (None where one has no meter), the largest
    memory of a GPU in MiB, and the median of their pairs per second (None where nothing was trained).
    """

    runs: int
    seconds: float
    gpu_hours: float
    energy_kwh: float | None
    gpu_memory_mib: float | None
    pairs_per_second: float | None


def stage_costs(uri: str, experiment: str) -> dict[str, StageCost]:
    """The cost of every stage; empty where the store or the experiment is not there. Nothing is written."""
    if not is_there(uri):
        return {}
    try:
        require_answer(uri)
        client = connect(uri)
        known = client.get_experiment_by_name(experiment)
        found = search(client, known.experiment_id, "attributes.status != 'RUNNING'") if known else []
    except STORE_ERRORS:
        return {}
    by_stage: dict[str, list[Run]] = defaultdict(list)
    for run in found:
        if "stage" in run.data.tags:
            by_stage[run.data.tags["stage"]].append(run)
    return {stage: _cost(runs) for stage, runs in by_stage.items()}


def _cost(runs: Sequence[Run]) -> StageCost:
    metrics = [run.data.metrics for run in runs]
    on_gpus = [one for one in metrics if one.get("gpu_hours")]
    energies = [one["energy_kwh"] for one in on_gpus if "energy_kwh" in one]
    memories = [one["gpu_peak_memory_mib"] for one in on_gpus if "gpu_peak_memory_mib" in one]
    rates = [one["median_pairs_per_second"] for one in metrics if "median_pairs_per_second" in one]
    return StageCost(
        runs=len(runs),
        seconds=sum(one.get("wall_seconds", 0.0) for one in metrics),
        gpu_hours=sum(one["gpu_hours"] for one in on_gpus),
        energy_kwh=sum(energies) if energies and len(energies) == len(on_gpus) else None,
        gpu_memory_mib=max(memories, default=None),
        pairs_per_second=statistics.median(rates) if rates else None,
    )
