"""What a block took on GPUs; where there is none, nothing, and no energy is made up."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
import torch

from pipeline_steps.core.process import Paused
from pipeline_steps.core.record import Run
from pipeline_steps.models.meter import gpu_joules, metered

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: its energy counter was not read")


class Kept(Run):
    """A run that keeps the metrics it is given."""

    def __init__(self) -> None:
        super().__init__(None, "")
        self.metrics: dict[str, float] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.metrics |= metrics


def test_without_a_gpu_there_are_no_gpu_hours_and_no_energy() -> None:
    run = Kept()
    with metered(run, torch.device("cpu")):
        time.sleep(0.01)
    assert run.metrics == {"gpu_hours": 0.0}
    assert gpu_joules(torch.device("cpu")) is None


def test_a_paused_block_is_metered_and_a_failed_one_is_not() -> None:
    paused, failed = Kept(), Kept()
    with pytest.raises(Paused), metered(paused, torch.device("cpu")):
        raise Paused("later")
    with pytest.raises(ValueError, match="wrong"), metered(failed, torch.device("cpu")):
        raise ValueError("wrong")
    assert (paused.metrics, failed.metrics) == ({"gpu_hours": 0.0}, {})


def test_gpus_of_all_processes_count_and_energy_only_where_all_have_a_meter() -> None:
    run = Kept()
    with metered(run, torch.device("cpu"), lambda own: own + torch.tensor([4.0, 4.0, 7.2e6])):
        time.sleep(0.05)
    assert 4 * 0.05 <= run.metrics["gpu_hours"] * 3600 < 4 * 5
    assert run.metrics["energy_kwh"] == 2.0
    with metered(run := Kept(), torch.device("cpu"), lambda own: own + torch.tensor([4.0, 3.0, 7.2e6])):
        pass
    assert "energy_kwh" not in run.metrics


@needs_gpu
def test_a_gpu_that_works_uses_energy_and_memory() -> None:
    run, device = Kept(), torch.device("cuda")
    with metered(run, device):
        matrix = torch.randn(4096, 4096, device=device)
        for _ in range(200):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        torch.cuda.synchronize()
    assert run.metrics["gpu_hours"] > 0
    assert run.metrics["gpu_peak_memory_mib"] >= 64
    assert run.metrics.get("energy_kwh", 1e-9) > 0
