"""What runs took, from their records: attempts that were killed count, and nothing is made up."""

from __future__ import annotations

from pathlib import Path

from pipeline_steps.core.record import Run, RunIdentity
from pipeline_steps.reporting.overview import cost_text
from pipeline_steps.reporting.run_cost import StageCost, stage_costs


def _run(experiment: Path, name: str, stage: str, status: str | None, **metrics: float) -> None:
    run = Run(experiment / "runs" / name, "")
    run.start(RunIdentity(experiment.name, stage, "ncu", 0), {}, {})
    run.log_metrics(metrics)
    if status:
        run.end(status)


def test_every_attempt_counts_and_energy_only_where_all_gpus_told_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert stage_costs(mine) == {}
    first = {"wall_seconds": 1800, "gpu_hours": 2.0, "energy_kwh": 1.0, "gpu_peak_memory_mib": 100}
    second = {"wall_seconds": 3600, "gpu_hours": 4.0, "energy_kwh": 2.5, "gpu_peak_memory_mib": 300}
    _run(mine, "1", "unlearn", "KILLED", **first)
    _run(mine, "2", "unlearn", "FINISHED", **second, median_pairs_per_second=1234.0)
    _run(mine, "3", "extract_features", "FINISHED", wall_seconds=60, gpu_hours=0.5)
    _run(mine, "4", "make_tables", "FINISHED", wall_seconds=5)
    _run(mine, "5", "unlearn", None, wall_seconds=7)
    found = stage_costs(mine)
    assert found["unlearn"] == StageCost(2, 5400.0, 6.0, 3.5, 300.0, 1234.0)
    assert found["extract_features"] == StageCost(1, 60.0, 0.5, None, None, None)
    rows = [line.split() for line in cost_text(mine).splitlines()[2:]]
    assert rows == [
        ["unlearn", "2", "90", "min", "00", "s", "6.00", "3.50", "kWh", "300", "MiB", "1,234"],
        ["extract_features", "1", "1", "min", "00", "s", "0.50", rows[1][-1], rows[1][-1], rows[1][-1]],
    ]
    assert cost_text(tmp_path / "another") == ""
