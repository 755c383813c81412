"""What runs took, from a real store: attempts that were killed count, and nothing is made up."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from pipeline_steps.core.tracking.costs import StageCost, stage_costs
from pipeline_steps.reporting.overview import cost_text


def _run(client: MlflowClient, experiment: str, stage: str, status: str, **metrics: float) -> None:
    run = client.create_run(experiment, tags={"stage": stage})
    for name, value in metrics.items():
        client.log_metric(run.info.run_id, name, value)
    client.set_terminated(run.info.run_id, status)


def test_every_attempt_counts_and_energy_only_where_all_gpus_told_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert stage_costs(uri, "mine") == {}
    assert not (tmp_path / "mlflow.db").exists()
    client = MlflowClient(uri)
    mine = client.create_experiment("mine", artifact_location=tmp_path.as_uri())
    _run(client, mine, "unlearn", "KILLED", wall_seconds=1800, gpu_hours=2.0, energy_kwh=1.0, gpu_peak_memory_mib=100)
    _run(
        client, mine, "unlearn", "FINISHED", wall_seconds=3600, gpu_hours=4.0, energy_kwh=2.5, gpu_peak_memory_mib=300,
        median_pairs_per_second=1234.0,
    )  # fmt: skip
    _run(client, mine, "extract_features", "FINISHED", wall_seconds=60, gpu_hours=0.5)
    _run(client, mine, "make_tables", "FINISHED", wall_seconds=5)
    found = stage_costs(uri, "mine")
    assert found["unlearn"] == StageCost(2, 5400.0, 6.0, 3.5, 300.0, 1234.0)
    assert found["extract_features"] == StageCost(1, 60.0, 0.5, None, None, None)
    rows = [line.split() for line in cost_text(uri, "mine").splitlines()[2:]]
    assert rows == [
        ["unlearn", "2", "90", "min", "00", "s", "6.00", "3.50", "kWh", "300", "MiB", "1,234"],
        ["extract_features", "1", "1", "min", "00", "s", "0.50", rows[1][-1], rows[1][-1], rows[1][-1]],
    ]
    assert stage_costs(uri, "another") == {}
    assert cost_text(uri, "another") == ""
