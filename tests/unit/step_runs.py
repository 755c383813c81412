"""Running a step by its command line against a real MLflow store of the test's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline_steps.core.step import SHARED, Step
from tests.results_tree import SETTINGS


def command(step: Step, *, settings: dict[str, object] | None = None, method: str = "ncu", **paths: Path) -> int:
    """The step's exit status for `--name path` of every path and the sections that it wants."""
    known = {**SETTINGS, **(settings or {})}
    chosen = {"experiment": "test", **{name: known[name] for name in step.sections}}
    options = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    owner = [] if step.name in SHARED else ["--method", method]
    return step.main([*options, "--settings", json.dumps(chosen), *owner])


def runs_of(stage: str) -> list[Run]:
    """The stage's runs in the test's store."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.stage = '{stage}'"))


def artifacts_of(run: Run) -> set[str]:
    """The paths of a run's files."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    found: set[str] = set()
    folders = [""]
    while folders:
        for item in client.list_artifacts(run.info.run_id, folders.pop() or None):
            if item.is_dir:
                folders.append(item.path)
            else:
                found.add(item.path)
    return found
