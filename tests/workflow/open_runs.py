"""MLflow runs of a workflow that a test started, and the processes behind them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run


def unlearn_runs(folder: Path) -> list[Run]:
    """The MLflow runs of unlearn in this folder, oldest first; not those of the project that it is a copy of."""
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    query = f"tags.stage = 'unlearn' and tags.output LIKE '{folder}/%'"
    return list(client.search_runs([experiment.experiment_id], query, order_by=["start_time ASC"]))


def statuses(folder: Path, experiment: str, stage: str) -> list[str]:
    """How the MLflow runs of a stage ended, the latest first."""
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return [run.info.status for run in client.search_runs([found.experiment_id], f"tags.stage = '{stage}'")]


def wait_for_open_run(folder: Path, driver: subprocess.Popen[str]) -> int:
    """The process id of the unlearn step, once its MLflow run is open; it is a child of the driver that we started."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and driver.poll() is None:
        open_runs = [run for run in unlearn_runs(folder) if run.info.status == "RUNNING"]
        children = {child.pid for child in psutil.Process(driver.pid).children(recursive=True)}
        for run in open_runs:
            if int(run.data.tags["pid"]) in children:
                return int(run.data.tags["pid"])
        time.sleep(0.2)
    raise AssertionError("the step did not open its run")
