"""Records and an MLflow store that comes and goes: nothing is lost and nothing is there twice."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from pipeline_steps.core.follower import Follower
from pipeline_steps.core.record import RunIdentity, record_folders, recorded_run
from pipeline_steps.tracking.sender import Pass, Sender
from pipeline_steps.tracking.store import connect
from tests.support.warm_python import warm_python
from tests.unit.paths import REPOSITORY
from tests.unit.tracking.many_jobs import POINTS
from tests.unit.tracking.mlflow_server import Server

pytestmark = pytest.mark.usefixtures("warm")

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that the tests share; each has an experiment of its own."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    connect(uri)
    return uri


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path / "results"))
    return tmp_path / "results"


def start(folder: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PIPELINE_RESULTS_DIR": str(folder / "results"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=environment, cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def jobs(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, "tests.unit.tracking.many_jobs", str(folder), *arguments)


def send(folder: Path, uri: str) -> tuple[int, str]:
    process = start(folder, "pipeline_steps.send_runs", "--uri", uri)
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


def test_jobs_at_once_lose_nothing_on_a_server_that_is_killed_and_so_is_who_sends(
    tmp_path: Path, server: Server
) -> None:
    process = jobs(tmp_path, "5", "wait")
    wait_for(lambda: all((tmp_path / f"half{number}").exists() for number in range(5)), process)
    following = start(tmp_path, "pipeline_steps.send_runs", "--uri", server.uri, "--follow")
    before = server.requests()
    wait_for(lambda: server.requests() > before + 25, following)
    server.kill()
    (tmp_path / "go").touch()
    ended_well(process)
    following.kill()
    following.communicate(timeout=30)
    code, output = send(tmp_path, server.uri)
    assert code == 1
    assert "MLflow has not taken 5 runs" in output
    assert "Traceback" not in output

    server.start()
    before = server.requests()
    sending = start(tmp_path, "pipeline_steps.send_runs", "--uri", server.uri)
    wait_for(lambda: server.requests() > before + 20, sending)
    sending.kill()
    sending.communicate(timeout=30)
    both = [start(tmp_path, "pipeline_steps.send_runs", "--uri", server.uri) for _ in range(2)]
    assert [process.communicate(timeout=120) and process.returncode for process in both] == [0, 0]
    steps = check(tmp_path, server.uri, 5)
    (early,) = MlflowClient(server.uri).list_artifacts(steps["stage1"].info.run_id, "notes")
    assert early.path == "notes/early.txt"
    assert send(tmp_path, server.uri) == (0, "")


def test_a_follower_sends_while_work_goes_on_and_the_rest_at_its_end(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPELINE_RUNS_FOLLOWED")
    process = jobs(tmp_path, "2", "wait")
    follower = Follower(tmp_path / "results", sqlite)
    wait_for(lambda: all((tmp_path / f"half{number}").exists() for number in range(2)), process)

    def half_sent() -> bool:
        if not MlflowClient(sqlite).get_experiment_by_name(tmp_path.name):
            return False
        running = [run for run in runs_of(tmp_path, sqlite) if run.info.status == "RUNNING"]
        return len(running) == 2 and all("loss" in run.data.metrics for run in running)

    wait_for(half_sent, process)
    (tmp_path / "go").touch()
    ended_well(process)
    follower.finish()
    check(tmp_path, sqlite, 2)


def test_a_killed_job_ends_as_killed(tmp_path: Path, sqlite: str) -> None:
    process = jobs(tmp_path, "1", "wait")
    wait_for((tmp_path / "half0").exists, process)
    sender = Sender(tmp_path / "results", sqlite)
    assert sender.send() == Pass(sent=0, running=1, kept=0, reason="")
    (child,) = psutil.Process(warm_python().worker_of(process.pid)).children()
    child.kill()
    process.communicate(timeout=30)
    assert sender.send().sent == 1
    (run,) = [run for run in runs_of(tmp_path, sqlite) if run.data.tags.get("stage") == "stage0"]
    assert run.info.status == "KILLED"
    assert run.data.tags["current"] == "false"
    assert len(MlflowClient(sqlite).get_metric_history(run.info.run_id, "loss")) == POINTS // 2 + 1
    (parent,) = [run for run in runs_of(tmp_path, sqlite) if run.data.tags.get("parent") == "true"]
    assert parent.info.status == "FAILED"


def test_the_latest_finished_run_is_current_and_none_is_ever_deleted(
    tmp_path: Path, results: Path, sqlite: str
) -> None:
    identity = RunIdentity(tmp_path.name, "unlearn", "ncu", 0)
    for score, alpha in ((1.0, 1), (2.0, 2), (3.0, 2)):
        with recorded_run(identity, {"alpha": alpha}, {}, tmp_path / "out") as run:
            run.log_scores({"score": score})
        time.sleep(0.01)  # MLflow counts milliseconds
        if score != 2.0:  # the second is sent with the third
            assert Sender(results, sqlite).send().kept == 0
    runs = runs_of(tmp_path, sqlite)
    (parent,) = [run for run in runs if run.data.tags.get("parent") == "true"]
    assert parent.data.metrics == {"score": 3.0}
    steps = sorted((run for run in runs if run is not parent), key=lambda run: run.info.start_time)
    assert [run.data.metrics["score"] for run in steps] == [1.0, 2.0, 3.0]
    assert [run.info.lifecycle_stage for run in steps] == ["active"] * 3
    assert [run.data.tags["current"] for run in steps] == ["false", "false", "true"]
    assert Sender(results, sqlite).send() == Pass(0, 0, 0, "")


def test_the_parent_is_failed_while_a_stage_under_it_is(tmp_path: Path, results: Path, sqlite: str) -> None:
    identity, found = RunIdentity(tmp_path.name, "unlearn", "ncu", 0), []
    for fails in (True, False):
        try:
            with recorded_run(identity, {}, {}, tmp_path / "out"):
                assert not fails
        except AssertionError:
            pass
        Sender(results, sqlite).send()
        (parent,) = [run for run in runs_of(tmp_path, sqlite) if run.data.tags.get("parent") == "true"]
        found.append(parent.info.status)
    assert found == ["FAILED", "FINISHED"]


def test_a_run_goes_to_another_store_too_and_names_that_mlflow_refuses_are_mended(
    tmp_path: Path, results: Path, sqlite: str
) -> None:
    settings = {"averages": {"All: the sets (16)": "x" * 9000}}
    with recorded_run(RunIdentity(tmp_path.name, "make_tables", "report", 0), settings, {}, tmp_path / "out") as run:
        run.log_metrics({"mean: all": 0.5})
    other = f"sqlite:///{tmp_path}/other/mlflow.db"
    for uri in (sqlite, other):
        assert Sender(results, uri).send() == Pass(1, 0, 0, "")
        (sent,) = [run for run in runs_of(tmp_path, uri) if run.data.tags.get("stage") == "make_tables"]
        assert sent.data.params == {"averages.All_ the sets _16_": "x" * 6000}
        assert sent.data.metrics["mean_ all"] == 0.5


def test_names_that_become_one_in_mlflow_stay_apart(tmp_path: Path, results: Path, sqlite: str) -> None:
    with recorded_run(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), {"a (b)": 1, "a _b_": 2}, {}, tmp_path / "out"):
        pass
    assert Sender(results, sqlite).send() == Pass(1, 0, 0, "")
    (sent,) = [run for run in runs_of(tmp_path, sqlite) if run.data.tags.get("stage") == "unlearn"]
    assert sorted(sent.data.params.values()) == ["1", "2"]


def test_a_copy_of_the_results_writes_nothing_into_the_original(tmp_path: Path, results: Path) -> None:
    identity = RunIdentity(tmp_path.name, "unlearn", "ncu", 0)
    _logged(identity, tmp_path)
    assert Sender(results, f"sqlite:///{results}/mlflow.db").send() == Pass(1, 0, 0, "")
    before = sorted(results.rglob("*"))
    for name in ("copy", "moved"):
        copy = tmp_path / name
        if name == "copy":
            shutil.copytree(results, copy)
        else:
            (tmp_path / "copy").rename(copy)
        os.environ["PIPELINE_RESULTS_DIR"] = str(copy)  # the fixture puts it back
        _logged(identity, tmp_path)
        uri = f"sqlite:///{copy}/mlflow.db"
        assert Sender(copy, uri).send().kept == 0
        for run in runs_of(tmp_path, uri):
            assert run.info.artifact_uri.startswith(f"file://{copy}/mlartifacts/{tmp_path.name}/")
            if run.data.tags.get("parent") != "true":
                assert [file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id)] == ["kept.txt"]
    assert sorted(results.rglob("*")) == before


def _logged(identity: RunIdentity, folder: Path) -> None:
    with recorded_run(identity, {}, {}, folder / "out") as run:
        run.log_text("kept", "kept.txt")


def test_a_deleted_experiment_is_named_with_the_ways_on_and_then_gets_what_it_lacks(
    tmp_path: Path, results: Path, sqlite: str
) -> None:
    identity, client = RunIdentity(tmp_path.name, "unlearn", "ncu", 0), MlflowClient(sqlite)
    _logged(identity, tmp_path)
    assert Sender(results, sqlite).send().sent == 1
    experiment_id = client.get_experiment_by_name(tmp_path.name).experiment_id
    client.delete_experiment(experiment_id)
    _logged(identity, tmp_path)
    found = Sender(results, sqlite).send()
    assert (found.sent, found.kept) == (0, 1)
    assert f"`mlflow experiments restore -x {experiment_id}` brings it back, and another `experiment`" in found.reason
    client.restore_experiment(experiment_id)
    assert Sender(results, sqlite).send() == Pass(1, 0, 0, "")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"uri": 3}', b"\xff", b'{"uri": "URI", "points": "x", "files": []}']
)
def test_a_damaged_note_of_what_was_sent_sends_it_again_and_doubles_nothing(
    content: bytes, tmp_path: Path, results: Path, sqlite: str
) -> None:
    _logged(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), tmp_path)
    assert Sender(results, sqlite).send() == Pass(1, 0, 0, "")
    before = runs_of(tmp_path, sqlite)
    (folder,) = record_folders(results)
    (folder / "sent.json").write_bytes(content.replace(b"URI", sqlite.encode()))
    assert Sender(results, sqlite).send() == Pass(1, 0, 0, "")
    assert len(runs_of(tmp_path, sqlite)) == len(before)


@pytest.mark.parametrize("uri", ["postgresql://me:S3CRET@127.0.0.1:1/x", "http://me:S3CRET@127.0.0.1:9"])
def test_a_password_of_the_environment_is_kept_nowhere_and_a_driver_that_is_missing_is_named(
    uri: str, tmp_path: Path, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _logged(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), tmp_path)
    found = Sender(results, uri).send()
    assert (found.sent, found.kept) == (0, 1)
    assert found.reason
    if uri.startswith("postgresql"):
        assert "psycopg2" in found.reason
    written = [path.read_bytes() for path in results.rglob("*") if path.is_file()]
    assert not any("S3CRET" in str(shown) for shown in (found, *written, *capfd.readouterr()))


def test_a_store_that_is_locked_keeps_the_run_until_it_is_not(tmp_path: Path, results: Path, sqlite: str) -> None:
    with recorded_run(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), {}, {}, tmp_path / "out"):
        pass
    sender = Sender(results, sqlite)
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = sender.send()
        other.rollback()
    assert (found.sent, found.kept) == (0, 1)
    assert "locked" in found.reason
    assert sender.send() == Pass(1, 0, 0, "")


def test_a_run_without_news_asks_the_store_nothing(tmp_path: Path, results: Path, sqlite: str) -> None:
    sender = Sender(results, sqlite)
    with recorded_run(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), {}, {}, tmp_path / "out"):
        assert sender.send() == Pass(0, 1, 0, "")
        with closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert sender.send() == Pass(0, 1, 0, "")
            other.rollback()
    assert sender.send() == Pass(1, 0, 0, "")


def test_no_store_keeps_the_runs_and_says_so(tmp_path: Path, results: Path) -> None:
    with recorded_run(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), {}, {}, tmp_path / "out"):
        pass
    (tmp_path / "folder.db").mkdir()
    for uri in (NOBODY, f"sqlite:///{tmp_path}/folder.db"):
        found = Sender(results, uri).send()
        assert (found.sent, found.kept) == (0, 1)
        assert found.reason
    (folder,) = record_folders(results)
    assert not (folder / "sent.json").exists()


def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path, results: Path) -> None:
    with recorded_run(RunIdentity(tmp_path.name, "unlearn", "ncu", 0), {}, {}, tmp_path / "out"):
        pass
    (results / ".mlflow.db.partial").write_bytes(b"what a killed process left")
    assert Sender(results, f"sqlite:///{results}/mlflow.db").send() == Pass(1, 0, 0, "")
    assert not (results / ".mlflow.db.partial").exists()
