"""MLflow runs of a workflow that a test started, and the processes behind them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline_steps.core.record import RUNNING, read_record, record_folders


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
    """The process id of the folder's unlearn step, once it has begun its record and a first step of its training."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and driver.poll() is None:
        for record in filter(None, map(read_record, record_folders(folder / "results"))):
            here = record.tags["output"].startswith(f"{folder}/")
            if here and record.identity.stage == "unlearn" and record.status == RUNNING and record.points:
                return int(record.tags["pid"])
        time.sleep(0.05)
    raise AssertionError("the step did not begin")
