"""A real SQLite store: how steps end, and that reruns count once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.unit.paths import REPOSITORY

STEP = """
import sys, time
from pathlib import Path
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.step import Step

def run(context):
    context.run.log_metrics({"loss": 2.0}, 0)
    context.run.log_metrics({"loss": 1.0}, 1)
    context.run.log_scores({"retrieval/mean_recall": 0.5})
    behaviour = context.paths["behaviour"].read_text()
    if behaviour == "mistake":
        raise PipelineError("fact, place and remedy")
    if behaviour == "full disk":
        import resource, signal
        from pipeline_steps.core.files import whole_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with whole_file(context.paths["out"]) as partial:
            partial.write_bytes(b"x" * 100_000)
    if behaviour == "bug":
        raise ValueError("a bug")
    if behaviour == "long":
        context.run.flush()
        context.paths["out"].with_suffix(".started").touch()
        time.sleep(60)
    context.paths["out"].write_text("done")

step = Step("eval_retrieval", "Test.", ("eval_retrieval",), {"behaviour": "what to do"}, {"out": "a file"}, run)
sys.exit(step.main())
"""


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        (folder / "step.py").write_text(STEP)

    def command(self, recall_at: Sequence[int] = (1,), seed: int = 0) -> list[str]:
        settings = json.dumps({"experiment": "test", "eval_retrieval": {"recall_at": list(recall_at)}})
        return [
            sys.executable, str(self.folder / "step.py"), "--settings", settings, "--method", "ncu", "--seed",
            str(seed), "--behaviour", str(self.folder / "behaviour"), "--out", str(self.folder / f"out{seed}"),
        ]  # fmt: skip

    def start(self, behaviour: str, recall_at: Sequence[int] = (1,), seed: int = 0) -> subprocess.Popen[str]:
        (self.folder / "behaviour").write_text(behaviour)
        environment = os.environ | {"MLFLOW_TRACKING_URI": self.uri, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            self.command(recall_at, seed), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit none
        )  # fmt: skip

    def run(self, behaviour: str, recall_at: Sequence[int] = (1,)) -> tuple[int, str]:
        process = self.start(behaviour, recall_at)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def start_and_wait(self, seed: int) -> subprocess.Popen[str]:
        process = self.start("long", seed=seed)
        started = self.folder / f"out{seed}.started"
        deadline = time.monotonic() + 100
        while not started.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        assert started.exists()
        return process

    def runs(self) -> list[Run]:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("test")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))

    def steps(self) -> list[Run]:
        return [run for run in self.runs() if run.data.tags.get("parent") != "true"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_runs_of_a_step_over_its_life(store: Store) -> None:
    assert store.run("well")[0] == 0
    (only,) = store.steps()
    assert only.info.status == "FINISHED"
    assert only.data.tags["current"] == "true"
    assert only.data.metrics["loss"] == 1.0
    assert only.data.params["eval_retrieval.recall_at"] == "[1]"
    assert len(only.data.tags["git_commit"]) >= 7
    assert len(only.data.tags["input.behaviour.sha256"]) == 64
    assert {"experiment", "method", "stage", "seed"} <= only.data.tags.keys()

    assert store.run("well")[0] == 0
    (rerun,) = store.steps()
    assert rerun.info.run_id != only.info.run_id
    client = MlflowClient(store.uri)
    assert [metric.value for metric in client.get_metric_history(rerun.info.run_id, "loss")] == [2.0, 1.0]
    (parent,) = [run for run in store.runs() if run.data.tags.get("parent") == "true"]
    assert rerun.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(client.get_metric_history(parent.info.run_id, "retrieval/mean_recall")) == 1

    assert store.run("well", recall_at=(1, 5))[0] == 0
    assert [run.data.tags["current"] for run in store.steps()] == ["false", "true"]


def test_a_mistake_of_the_user_ends_as_failed_without_a_traceback(store: Store) -> None:
    code, output = store.run("mistake")
    assert code == 1
    assert "eval_retrieval: fact, place and remedy" in output
    assert "Traceback" not in output
    assert store.steps()[-1].info.status == "FAILED"
    assert store.steps()[-1].data.tags["current"] == "false"


def test_a_bug_ends_as_failed_with_its_traceback(store: Store) -> None:
    code, output = store.run("bug")
    assert code == 1
    assert "ValueError: a bug" in output
    assert store.steps()[-1].info.status == "FAILED"


def test_a_full_disk_is_said_though_the_store_is_on_it_too_and_the_next_run_closes_it(store: Store) -> None:
    code, output = store.run("full disk")
    assert code == 1
    assert "no room to write" in output
    assert "the MLflow store took no more" in output
    assert "Traceback" not in output
    assert store.steps()[-1].info.status == "RUNNING"
    assert store.run("well")[0] == 0
    assert "RUNNING" not in {run.info.status for run in store.steps()}


def test_a_full_disk_that_only_the_store_meets_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    full = Store(tmp_path)
    (tmp_path / "behaviour").write_text("well")
    limits = "import os, resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    ignore = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    environment = os.environ | {"MLFLOW_TRACKING_URI": full.uri, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", limits + ignore, *full.command()]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert f"the MLflow store {full.uri} does not take this run" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out0").exists()


def test_the_parent_is_failed_while_a_stage_under_it_is(store: Store) -> None:
    store.run("mistake")
    (parent,) = [run for run in store.runs() if run.data.tags.get("parent") == "true"]
    assert parent.info.status == "FAILED"
    store.run("well")
    (parent,) = [run for run in store.runs() if run.data.tags.get("parent") == "true"]
    assert parent.info.status == "FINISHED"


def test_ctrl_c_ends_as_killed(store: Store) -> None:
    process = store.start_and_wait(seed=5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert store.steps()[-1].info.status == "KILLED"


def test_sigterm_ends_as_killed(store: Store) -> None:
    process = store.start_and_wait(seed=1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "its MLflow run is KILLED" in output
    assert store.steps()[-1].info.status == "KILLED"


def test_kill_9_is_closed_as_killed_by_the_next_step(store: Store) -> None:
    process = store.start_and_wait(seed=2)
    process.kill()
    process.communicate(timeout=60)
    dead = store.steps()[-1]
    assert dead.info.status == "RUNNING"
    assert store.run("well")[0] == 0
    found = {run.info.run_id: run for run in store.steps()}[dead.info.run_id]
    assert found.info.status == "KILLED"
    assert found.data.metrics["loss"] == 1.0


def test_kill_9_is_closed_as_killed_when_the_workflow_fails(store: Store) -> None:
    process = store.start_and_wait(seed=3)
    process.kill()
    process.communicate(timeout=60)
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [sys.executable, "-m", "pipeline_steps.merge_runs", "--experiment", "test"],
        env=environment, check=True, timeout=60,
    )  # fmt: skip
    assert store.steps()[-1].info.status == "KILLED"


def test_a_second_run_of_the_same_output_is_refused_while_the_first_lives(store: Store) -> None:
    process = store.start_and_wait(seed=4)
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri, "PYTHONPATH": str(REPOSITORY)}
    try:
        second = subprocess.run(
            store.command(seed=4), env=environment, text=True, timeout=60,
            capture_output=True, check=False,
        )  # fmt: skip
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert second.returncode == 1
    assert "another process is writing" in second.stderr
