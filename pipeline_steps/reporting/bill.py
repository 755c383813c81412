"""What the jobs of a dry run would cost, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline_steps.core.schema import Config
from pipeline_steps.reporting.text_table import text_table

_TERA = 1e12


@dataclass(frozen=True)
class Item:
    """One job: its stage, GPUs in all, time limit, counted operations (None: not known), bytes that it leaves."""

    stage: str
    gpus: int
    limit_minutes: int
    operations: float | None
    disk_bytes: float


def bill(items: Sequence[Item], pairs: int | None, tflops_per_gpu: float) -> str:
    """A table by stage, in the order of the configuration, its sum, and what the numbers rest on."""
    order = list(Config.__struct_fields__)
    place = {stage: number for number, stage in enumerate(order)}
    stages = sorted({item.stage for item in items}, key=lambda stage: place.get(stage, len(place)))
    body = [_row(stage, [item for item in items if item.stage == stage], tflops_per_gpu) for stage in stages]
    body.append(_row("all", items, tflops_per_gpu))
    header = ["Stage", "Jobs", "GPU-hours, counted", "GPU-hours, at most", "Disk, GB"]
    known = "of an unknown number of pairs (the manifest is not made yet)" if pairs is None else f"of {pairs:,} pairs"
    return "\n".join([
        "What this run would cost",
        "------------------------",
        text_table(header, body, "simple"),
        "",
        f"Counted: operations of trainings and features {known}, at {tflops_per_gpu:g} TFLOP/s per GPU",
        "(show_bill.tflops_per_gpu); data loading and the loss are not in it. At most: if every job ran to the time",
        "limit that it asks for, once. Disk: what stays, about; a training also keeps a state of three times its",
        "checkpoint while it runs.",
    ])  # fmt: skip


def _row(stage: str, items: Iterable[Item], tflops_per_gpu: float) -> list[str]:
    items = list(items)
    counts = [item.operations for item in items]
    hours = None if None in counts else sum(count or 0.0 for count in counts) / (tflops_per_gpu * _TERA) / 3600
    limit = sum(item.gpus * item.limit_minutes / 60 for item in items)
    disk = sum(item.disk_bytes for item in items)
    return [stage, f"{len(items):,}", "?" if hours is None else _number(hours), _number(limit), _number(disk / 1e9)]


def _number(value: float) -> str:
    if value == 0:
        return "-"
    return (
        "<0.01"
        if value < 0.01
        else f"{value:,.2f}"
        if value < 1
        else f"{value:,.1f}"
        if value < 100
        else f"{value:,.0f}"
    )
