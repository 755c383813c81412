"""What goes wrong on clusters, on a real Slurm: nothing finished is lost or redone, nothing half-written is used.

One training is disturbed again and again, and ends in the weights of a training that nobody disturbed. Between two
disturbances it is stopped (SIGSTOP), once it has kept a state of its own, so that it cannot end before its time. The
tests stand in that order; each but the last one also runs by itself.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline_steps import send_runs
from tests.workflow.cluster_project import CONFIGFILE, Driver, Held, adapt_profile, hold
from tests.workflow.open_runs import statuses
from tests.workflow.slurm_cluster import Cluster
from tests.workflow.snakemake_runs import snakemake, warm_environment

LONG = "train_reference: {training: {epochs: 16, pairs: 32, batch_size: 8, save_minutes: 1000}}"
FILES = (CONFIGFILE, "long.yaml")
REFERENCE = Path("results/smoke/train_reference/reference/seed0")
WEIGHTS = REFERENCE / "checkpoint/open_clip_model.safetensors"
STATE = REFERENCE / "checkpoint.resume.train_reference.pt"
LOG = Path("results/smoke/logs/train_reference/reference/seed0.log")


@pytest.fixture(scope="module")
def project(copied: Callable[..., Path]) -> Path:
    folder = copied("faults", pairs_only=True)
    (folder / "long.yaml").write_text(LONG)
    adapt_profile(folder, cpus_per_gpu=1, mem_mb=4000)
    return folder


@pytest.fixture(scope="module")
def expected(project: Path) -> dict[str, np.ndarray]:
    """The weights of an undisturbed training on this machine."""
    arguments = ("train_reference", "--set-threads", "train_reference_job=1")
    ran = snakemake(project, *arguments, configfiles=FILES, environment=warm_environment())
    assert ran.returncode == 0, ran.stdout[-3000:]
    return load_file(project / WEIGHTS)


@pytest.fixture(scope="module")
def driver(project: Path, cluster: Cluster, expected: dict[str, np.ndarray]) -> Iterator[Driver]:
    """The driver whose training the tests disturb, one after another; the disk has room again."""
    (project / LOG).unlink(missing_ok=True)
    driver = _train(project, cluster, "--forcerun", "train_reference_job", "--retries", "5")
    yield driver
    driver.stop()


@pytest.fixture
def held(project: Path, cluster: Cluster, driver: Driver) -> Held:
    """The training, stopped after an epoch of its present attempt."""
    return hold(project, cluster, driver, "train_reference", project / STATE)


def _train(project: Path, cluster: Cluster, *arguments: str) -> Driver:
    return Driver(project, cluster, "train_reference", *arguments, configfiles=FILES)


def _told(project: Path) -> str:
    """The log of the training's last attempt."""
    return (project / LOG).read_text() if (project / LOG).is_file() else ""


def _goes_on(project: Path, cluster: Cluster, driver: Driver, ended: Held) -> Held:
    """The next attempt, once it has gone on from the state of the one that has ended, and kept one of its own."""
    cluster.wait(lambda: not ended.process.is_running(), "ended")
    found = hold(project, cluster, driver, "train_reference", project / STATE)
    assert "goes on after step" in _told(project)
    return found


def test_a_full_disk_fails_the_job_with_its_reason_and_leaves_nothing_half_written(
    project: Path, cluster: Cluster, expected: dict[str, np.ndarray]
) -> None:
    limit = 4 * 2**20  # Slurm takes the limits of who submits along to the job

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    (project / LOG).unlink(missing_ok=True)
    (project / "new_store.yaml").write_text("tracking: {uri: sqlite:///results/new.db}")  # a small file
    arguments = ("train_reference", "--forcerun", "train_reference_job", "--retries", "0")
    full = Driver(project, cluster, *arguments, configfiles=(*FILES, "new_store.yaml"), before=small_files)
    told = full.ended(1)
    assert "no room" in _told(project), told
    assert not (project / WEIGHTS).exists()
    assert not (project / STATE).exists()
    assert not list((project / "results").rglob("*.partial"))


def test_a_training_killed_and_then_cancelled_is_tried_again_and_goes_on(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    held.process.kill()
    second = _goes_on(project, cluster, driver, held)
    cluster.ask("scancel", second.job)
    cluster.wait(second.told_to_end, "told to end", every=0.02)
    second.resume()
    cluster.wait(lambda: not second.process.is_running(), "ended")
    told = _told(project)
    assert "is kept after step" in told
    assert "asked Slurm" not in told  # what somebody cancels does not come back by itself
    _goes_on(project, cluster, driver, second)
    states = {job: row["state"] for job, row in cluster.jobs().items()}
    assert (states[held.job], states[second.job]) == ("FAILED", "CANCELLED")


def test_a_training_that_lives_on_while_its_machine_counts_as_dead_is_not_written_twice(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    lost = cluster.jobs()[held.job]["nodes"]
    cluster.kill_daemon(lost)  # a machine that hangs: the training stands still, and keeps its lock
    cluster.wait(lambda: cluster.jobs()[held.job]["nodes"] not in ("", lost), "on the other machine")
    cluster.wait(lambda: "another process is writing" in _told(project), "refused by the lock")
    held.process.kill()  # as the machine's end would, or its administrator
    cluster.start_node(lost)
    _goes_on(project, cluster, driver, held)
    cluster.wait(lambda: not cluster.node_is(lost, "down"), "a machine again")


def test_a_training_whose_machine_dies_goes_on_on_another(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    dead = cluster.jobs()[held.job]["nodes"]
    cluster.kill_node(dead)
    cluster.wait(lambda: cluster.jobs()[held.job]["nodes"] not in ("", dead), "on the other machine")
    cluster.start_node(dead)
    assert _goes_on(project, cluster, driver, held).job == held.job
    cluster.wait(lambda: cluster.node_is(dead, "idle"), "a machine again")


def test_a_training_warned_of_its_time_limit_is_requeued_and_goes_on(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    restarts = int(cluster.show(held.job)["Restarts"])
    cluster.ask("scontrol", "update", f"JobId={held.job}", "TimeLimit=2")  # the profile asks for SIGTERM 120 s before
    cluster.wait(held.told_to_end, "warned", every=0.02)
    cluster.ask("scontrol", "update", f"JobId={held.job}", "TimeLimit=1440")  # while it runs: later Slurm warns again
    held.resume()
    cluster.wait(lambda: int(cluster.show(held.job)["Restarts"]) == restarts + 1, "requeued")
    assert f"asked Slurm to put job {held.job} back into the queue" in _told(project)
    assert _goes_on(project, cluster, driver, held).job == held.job


def test_a_preempted_training_is_requeued_and_goes_on(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    restarts = int(cluster.show(held.job)["Restarts"])
    command = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    urgent = cluster.ask(*command, "--wrap=sleep 1")
    cluster.wait(held.told_to_end, "told to end", every=0.02)
    held.resume()
    cluster.wait(lambda: int(cluster.show(held.job)["Restarts"]) == restarts + 1, "requeued")
    assert "is kept after step" in _told(project)
    assert _goes_on(project, cluster, driver, held).job == held.job
    assert cluster.show(urgent)["JobState"] == "COMPLETED"
    cluster.wait(lambda: statuses(project, "smoke", "train_reference")[:2] == ["RUNNING", "KILLED"], "told to MLflow")


def test_a_driver_that_dies_and_is_started_again_waits_for_its_jobs(
    project: Path, cluster: Cluster, driver: Driver, held: Held
) -> None:
    before = set(cluster.jobs())
    driver.process.kill()
    driver.process.wait(30)
    Driver(project, cluster, "--unlock", configfiles=FILES).ended()
    second = _train(project, cluster)
    cluster.wait(lambda: f"`scancel {held.job}`" in second.output(), "the job named")
    restarts = cluster.show(held.job)["Restarts"]
    held.resume()
    assert "Nothing to be done" in second.ended()
    assert not set(cluster.jobs()) - before
    assert (cluster.show(held.job)["JobState"], cluster.show(held.job)["Restarts"]) == ("COMPLETED", restarts)


def test_the_training_that_was_disturbed_so_often_has_the_weights_of_an_undisturbed_one(
    project: Path, expected: dict[str, np.ndarray]
) -> None:
    found = load_file(project / WEIGHTS)
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())
    assert "goes on after step" in _told(project)
    assert not (project / STATE).exists()
    assert not list((project / "results").rglob("*.partial"))
    assert send_runs.main(["--results-dir", str(project / "results")]) == 0  # in place of the driver that died
    assert statuses(project, "smoke", "train_reference")[:2] == ["FINISHED", "KILLED"]
