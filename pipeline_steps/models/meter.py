"""What a piece of work takes on GPUs: hours, energy, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pynvml
import torch
from torch import Tensor

from pipeline_steps.core.process import Paused
from pipeline_steps.core.record import Run

_JOULES_PER_KWH = 3.6e6


@contextmanager
def metered(run: Run, device: torch.device, total: Callable[[Tensor], Tensor] = lambda own: own) -> Iterator[None]:
    """Log what the block took, also when it ends by Paused: gpu_hours, energy_kwh, gpu_peak_memory_mib.

    Every process has one GPU and meters that one; `total` sums a tensor over the processes, so no GPU counts twice.
    Energy is that of the GPUs alone, by their own counters, and is left out where one has none; memory is the leading
    process's. Without a GPU gpu_hours are 0.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, before = time.monotonic(), gpu_joules(device)

    def log() -> None:
        after, hours = gpu_joules(device), (time.monotonic() - started) / 3600
        known = before is not None and after is not None
        used = (after or 0.0) - (before or 0.0) if known else 0.0
        own = torch.tensor([float(device.type == "cuda"), float(known), used], dtype=torch.float64, device=device)
        gpus, meters, joules = total(own).tolist()
        metrics = {"gpu_hours": hours * gpus}
        if gpus and meters == gpus:
            metrics["energy_kwh"] = joules / _JOULES_PER_KWH
        if device.type == "cuda":
            metrics["gpu_peak_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        run.log_metrics(metrics)

    try:
        yield
    except Paused:
        log()
        raise
    log()


def gpu_joules(device: torch.device) -> float | None:
    """The energy that a GPU has used since its driver was loaded, joules; None without a GPU or its counter (NVML)."""
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:
        return None
