"""Time and peak memory of a call, on a CPU or a CUDA device."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Samples:
    """Seconds of every run of one case at one size, its peak memory in MiB above the start, and its last answer."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = float("nan")
    answer: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


def run_once(call: Callable[[], dict[str, float]], samples: Samples, device: torch.device) -> None:
    """Run the call and add what it took; the first run counts for memory, and later ones for nothing but time."""
    first = not samples.seconds
    start_bytes = _reset_peak(device) if first else 0
    _wait(device)
    started = time.perf_counter()
    samples.answer = call()
    _wait(device)
    samples.seconds.append(time.perf_counter() - started)
    if first:
        samples.peak_mib = (_peak_bytes(device) - start_bytes) / 2**20


def machine_in_words(device: torch.device) -> str:
    """What ran: cores or GPU, Python and torch; no names of hosts or folders."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{torch.get_num_threads()} threads on {os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> float:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    if not _STATUS.is_file():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it does not serve the run unseen
    _RESET.write_text("5", encoding="ascii")  # Linux: the high-water mark of resident memory starts anew
    return _status_bytes("VmRSS")


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _status_bytes("VmHWM") if _STATUS.is_file() else float("nan")


def _status_bytes(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * int(line.split()[1])
    return float("nan")
