"""Many jobs and one MLflow server that comes and goes: nothing is lost and nothing is there twice."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline_steps.core.tracking import RunIdentity, tracked_run
from pipeline_steps.core.tracking.merge import Merged, merge_spools
from tests.unit.core.many_jobs import POINTS
from tests.unit.core.mlflow_server import Server
from tests.unit.paths import REPOSITORY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


def start(folder: Path, uri: str, module: str, *arguments: str) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = kept | {
        "MLFLOW_TRACKING_URI": uri, "PIPELINE_RESULTS_DIR": str(folder / "results"), "PYTHONPATH": str(REPOSITORY)
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=environment, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def jobs(folder: Path, uri: str, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, uri, "tests.unit.core.many_jobs", str(folder), *arguments)


def merge(folder: Path, uri: str) -> tuple[int, str]:
    process = start(folder, uri, "pipeline_steps.merge_runs")
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def ended_well(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    assert condition()


def spools(folder: Path) -> list[Path]:
    return sorted((folder / "results" / "mlflow_spool").glob("*"))


def runs_of(folder: Path, uri: str) -> list[Run]:
    """All runs of the folder's experiment, of which there is one."""
    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments(ViewType.ALL) if found.name == folder.name]
    return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL))


def check(folder: Path, uri: str, count: int) -> dict[str, Run]:
    """Each job is there once, finished and current, with every point and file, under the one parent of its cell."""
    client, runs = MlflowClient(uri), runs_of(folder, uri)
    parents = {run.info.run_id: run for run in runs if run.data.tags.get("parent") == "true"}
    steps = {run.data.tags["stage"]: run for run in runs if run.info.run_id not in parents}
    assert len(parents) + count == len(runs)
    assert steps.keys() == {f"stage{number}" for number in range(count)}
    cells = {(run.data.tags["method"], run.data.tags["seed"]) for run in parents.values()}
    assert len(cells) == len(parents) == min(count, 6)
    for number in range(count):
        run = steps[f"stage{number}"]
        assert run.info.status == "FINISHED"
        assert run.info.end_time >= run.info.start_time
        assert run.info.run_name == f"stage{number}"
        assert run.data.tags["current"] == "true"
        assert run.data.tags["output.out"].endswith(f"out{number}")
        assert run.data.params == {"number": str(number)}
        loss = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((point.step, point.value) for point in loss) == [(s, number + s / 1000) for s in range(POINTS)]
        odd = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "odd")}
        assert all(math.isnan(odd[s]) if s % 2 else odd[s] > 1e308 for s in range(POINTS))
        assert len(client.get_metric_history(run.info.run_id, "wall_seconds")) == 1
        assert "job.txt" in {file.path for file in client.list_artifacts(run.info.run_id)}
        parent = parents[run.data.tags["mlflow.parentRunId"]]
        assert parent.info.status == "FINISHED"
        assert all(parent.data.tags[key] == run.data.tags[key] for key in ("method", "seed"))
        scores = client.get_metric_history(parent.info.run_id, f"score/{number}")
        assert [score.value for score in scores] == [number]
    return steps


def test_thirty_jobs_at_once_lose_nothing_on_a_server(tmp_path: Path, server: Server) -> None:
    output = ended_well(jobs(tmp_path, server.uri, "30"))
    assert spools(tmp_path) == [], output
    check(tmp_path, server.uri, 30)


def test_jobs_at_once_lose_nothing_in_sqlite(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/results/mlflow.db"
    ended_well(jobs(tmp_path, uri, "8"))
    check(tmp_path, uri, 8)


def test_a_later_run_stays_current_when_earlier_ones_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, nobody = f"sqlite:///{tmp_path}/mlflow.db", "http://127.0.0.1:9"
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    for score, alpha, place in ((1.0, 1, nobody), (2.0, 2, nobody), (3.0, 2, uri)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        identity = RunIdentity(tmp_path.name, "unlearn", "ncu", 0)
        with tracked_run(identity, {"alpha": alpha}, {}, tmp_path / "out") as run:
            run.log_scores({"score": score})
    assert merge_spools(tmp_path, uri) == Merged(merged=2, running=0, kept=0, reason="")
    runs = runs_of(tmp_path, uri)
    (parent,) = [run for run in runs if run.data.tags.get("parent") == "true"]
    assert parent.data.metrics == {"score": 3.0}
    steps = sorted((run for run in runs if run is not parent), key=lambda run: run.info.start_time)
    assert [run.data.metrics["score"] for run in steps] == [1.0, 2.0, 3.0]
    assert [run.info.lifecycle_stage for run in steps] == ["active", "deleted", "active"]
    assert [run.data.tags["current"] for run in steps] == ["false", "false", "true"]


def test_a_server_killed_while_steps_run_has_everything_after_merges_that_are_killed_too(
    tmp_path: Path, server: Server
) -> None:
    process = jobs(tmp_path, server.uri, "3", "wait")
    wait_for(lambda: all((tmp_path / f"half{number}").exists() for number in range(3)), process)
    server.kill()
    (tmp_path / "go").touch()
    output = ended_well(process)
    assert output.count("takes no runs now") == 3
    assert len([path for path in spools(tmp_path) if path.is_dir()]) == 3
    code, output = merge(tmp_path, server.uri)
    assert code == 1
    assert "3 MLflow runs stay spooled" in output
    assert "Traceback" not in output

    server.start()
    for seconds in (0.0, 0.3):
        before = server.requests()
        merging = start(tmp_path, server.uri, "pipeline_steps.merge_runs")
        wait_for(lambda before=before: server.requests() > before + 8, merging)
        time.sleep(seconds)
        merging.kill()
        merging.communicate(timeout=30)
    both = [start(tmp_path, server.uri, "pipeline_steps.merge_runs") for _ in range(2)]
    assert [process.communicate(timeout=60) and process.returncode for process in both] == [0, 0]
    assert spools(tmp_path) == []
    steps = check(tmp_path, server.uri, 3)
    (early,) = MlflowClient(server.uri).list_artifacts(steps["stage1"].info.run_id, "notes")
    assert early.path == "notes/early.txt"
    assert merge(tmp_path, server.uri) == (0, "")


def test_steps_that_find_no_server_are_merged_and_a_killed_one_is_killed(tmp_path: Path, server: Server) -> None:
    server.kill()
    killed, well = tmp_path / "killed", tmp_path / "well"
    killed.mkdir()
    well.mkdir()
    process = jobs(killed, server.uri, "1", "wait")
    started = time.monotonic()
    ended_well(jobs(well, server.uri, "2"))
    assert time.monotonic() - started < 40
    wait_for((killed / "half0").exists, process)
    server.start()

    code, output = merge(killed, server.uri)
    assert (code, "1 of steps that still run stay" in output) == (0, True)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    process.communicate(timeout=30)
    for folder in (killed, well):
        assert merge(folder, server.uri)[0] == 0
        assert spools(folder) == []
    check(well, server.uri, 2)
    (run,) = [run for run in runs_of(killed, server.uri) if run.data.tags.get("stage") == "stage0"]
    assert run.info.status == "KILLED"
    assert run.data.tags["current"] == "false"
    assert len(MlflowClient(server.uri).get_metric_history(run.info.run_id, "loss")) == POINTS // 2 + 1
