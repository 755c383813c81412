"""What the runs of an experiment took, by stage, from their records: every attempt counts, also one that was killed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_steps.core.record import RUNNING, Record, read_record, record_folders


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


def stage_costs(experiment: Path) -> dict[str, StageCost]:
    """The cost of every stage of `results/<experiment>`."""
    by_stage: dict[str, list[Record]] = defaultdict(list)
    for folder in record_folders(experiment.parent, experiment.name):
        record = read_record(folder)
        if record and record.status != RUNNING:
            by_stage[record.identity.stage].append(record)
    return {stage: _cost(records) for stage, records in by_stage.items()}


def _cost(records: Sequence[Record]) -> StageCost:
    metrics = [record.metrics for record in records]
    on_gpus = [one for one in metrics if one.get("gpu_hours")]
    energies = [one["energy_kwh"] for one in on_gpus if "energy_kwh" in one]
    memories = [one["gpu_peak_memory_mib"] for one in on_gpus if "gpu_peak_memory_mib" in one]
    rates = [one["median_pairs_per_second"] for one in metrics if "median_pairs_per_second" in one]
    return StageCost(
        runs=len(records),
        seconds=sum(one.get("wall_seconds", 0.0) for one in metrics),
        gpu_hours=sum(one["gpu_hours"] for one in on_gpus),
        energy_kwh=sum(energies) if energies and len(energies) == len(on_gpus) else None,
        gpu_memory_mib=max(memories, default=None),
        pairs_per_second=statistics.median(rates) if rates else None,
    )
