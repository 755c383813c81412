"""What goes wrong on clusters, on a real Slurm: nothing finished is lost or redone, nothing half-written is used.

Every test trains the same reference, disturbs it, and finds the weights of a training that nobody disturbed.
"""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from tests.workflow.cluster_project import CONFIGFILES, Driver, adapt_profile, cluster_project
from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.workflow.snakemake_runs import snakemake

LONG = "train_reference: {training: {epochs: 36, pairs: 1280, save_minutes: 1000}}"
REFERENCE = Path("results/cluster/train_reference/reference/seed0")
WEIGHTS = REFERENCE / "checkpoint/open_clip_model.safetensors"
STATE = REFERENCE / "checkpoint.resume.train_reference.pt"
LOG = Path("results/cluster/logs/train_reference/reference/seed0.log")
PREEMPTION = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster", PREEMPTION) as running:
        yield running


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its pairs made, on this machine."""
    folder = cluster_project(tmp_path_factory.mktemp("cluster") / "project")
    (folder / "long.yaml").write_text(LONG)
    ran = snakemake(folder, "build_manifest", configfiles=(*CONFIGFILES, "long.yaml"))
    assert ran.returncode == 0, ran.stdout[-3000:]
    adapt_profile(folder, cpus_per_gpu=1)
    return folder


@pytest.fixture(scope="module")
def expected(project: Path) -> dict[str, torch.Tensor]:
    """The weights of an undisturbed training on this machine."""
    ran = snakemake(
        project, "train_reference", "--set-threads", "train_reference_job=1", configfiles=(*CONFIGFILES, "long.yaml")
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    return load_file(project / WEIGHTS)


@pytest.fixture
def training(project: Path, cluster: Cluster, expected: dict[str, torch.Tensor]) -> Iterator[Driver]:
    """A driver whose training has kept its first state."""
    for left in (project / STATE, project / LOG):
        left.unlink(missing_ok=True)
    driver = _train(project, cluster, "--forcerun", "train_reference_job")
    cluster.wait(lambda: driver.process.poll() is not None or (project / STATE).is_file(), "a state kept")
    assert driver.process.poll() is None, driver.output()[-3000:]
    yield driver
    if driver.process.poll() is None:
        driver.process.send_signal(signal.SIGINT)
        driver.process.wait(120)


def _train(project: Path, cluster: Cluster, *arguments: str) -> Driver:
    return Driver(project, cluster, "train_reference", *arguments, configfiles=(*CONFIGFILES, "long.yaml"))


def _told(project: Path) -> str:
    """The log of the training's last attempt."""
    return (project / LOG).read_text() if (project / LOG).is_file() else ""


def _job(cluster: Cluster) -> str:
    """The id of the only job that runs."""
    (job,) = cluster.jobs("RUNNING")
    return job


def _step(project: Path) -> psutil.Process:
    """The process of the training itself."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if (
            "pipeline_steps.train_reference" in words
            and process.info["cwd"] == str(project)
            and words[0].endswith("python")
        ):
            found.append(process)
    return min(found, key=lambda process: process.create_time())


def _as_expected(project: Path, expected: dict[str, torch.Tensor], *, resumed: bool = True) -> None:
    found = load_file(project / WEIGHTS)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert ("goes on after step" in _told(project)) == resumed
    assert not (project / STATE).exists()
    assert not list((project / "results").rglob("*.partial"))


def _statuses(project: Path) -> list[str]:
    """How the runs of the training ended, the latest first."""
    client = MlflowClient(f"sqlite:///{project}/results/mlflow.db")
    experiment = client.get_experiment_by_name("cluster")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.stage = 'train_reference'")
    return [run.info.status for run in found]


def test_a_preempted_training_is_requeued_and_goes_on(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    job = _job(cluster)
    command = ["sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    urgent = cluster.ask(*command, "--wrap=sleep 1")
    cluster.wait(lambda: cluster.show(job)["Restarts"] == "1", "requeued")
    assert "is kept after step" in _told(project)
    training.ended()
    assert cluster.show(urgent)["JobState"] == "COMPLETED"
    assert cluster.show(job)["JobState"] == "COMPLETED"
    _as_expected(project, expected)
    assert _statuses(project)[:2] == ["FINISHED", "KILLED"]


def test_a_preempted_training_on_two_machines_keeps_its_state_and_goes_on(
    project: Path, cluster: Cluster, expected: dict[str, torch.Tensor]
) -> None:
    for left in (project / STATE, project / LOG):
        left.unlink(missing_ok=True)
    adapt_profile(project, cpus_per_gpu=1, nodes=2)
    driver = _train(project, cluster, "--forcerun", "train_reference_job")
    cluster.wait(lambda: driver.process.poll() is not None or (project / STATE).is_file(), "a state kept")
    job = _job(cluster)
    assert cluster.jobs()[job]["nodes"] == "n[1-2]"
    cluster.ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait(lambda: cluster.show(job)["Restarts"] == "1", "requeued")
    kept = re.search(r"is kept after step (\d+)", _told(project))
    assert kept
    driver.ended()
    adapt_profile(project, cpus_per_gpu=1)
    assert cluster.show(job)["JobState"] == "COMPLETED"
    assert f"goes on after step {kept[1]}" in _told(project)
    assert load_file(project / WEIGHTS).keys() == expected.keys()
    assert _statuses(project)[:2] == ["FINISHED", "KILLED"]


def test_a_training_warned_of_its_time_limit_is_requeued_and_goes_on(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    job = _job(cluster)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # the profile asks for SIGTERM 120 s before
    cluster.wait(lambda: cluster.show(job)["Restarts"] == "1", "requeued")
    assert f"asked Slurm to put job {job} back into the queue" in _told(project)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=1440")
    training.ended()
    assert cluster.show(job)["JobState"] == "COMPLETED"
    _as_expected(project, expected)


def test_a_training_killed_and_then_cancelled_is_tried_again_and_goes_on(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    first = _job(cluster)
    _step(project).kill()
    cluster.wait(lambda: cluster.jobs("RUNNING").keys() - {first}, "tried again")
    second = _job(cluster)
    cluster.wait(lambda: "goes on after step" in _told(project), "gone on")
    cluster.ask("scancel", second)
    training.ended()
    states = {job: row["state"] for job, row in cluster.jobs().items()}
    assert (states[first], states[second]) == ("FAILED", "CANCELLED")
    assert "asked Slurm" not in _told(project)  # what somebody cancels does not come back by itself
    _as_expected(project, expected)


def test_a_training_whose_machine_dies_goes_on_on_another(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    job = _job(cluster)
    dead = cluster.jobs()[job]["nodes"]
    cluster.kill_node(dead)
    cluster.wait(lambda: cluster.jobs()[job]["nodes"] not in ("", dead), "on the other machine")
    training.ended()
    cluster.start_node(dead)
    assert cluster.show(job)["JobState"] == "COMPLETED"
    _as_expected(project, expected)
    cluster.wait(lambda: cluster.nodes_are("idle"), "nodes ready")


def test_a_training_that_lives_on_while_its_machine_counts_as_dead_is_not_written_twice(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    job = _job(cluster)
    lost = cluster.jobs()[job]["nodes"]
    first = _step(project)
    first.suspend()  # a machine that hangs, and keeps its lock
    cluster.kill_daemon(lost)
    cluster.wait(lambda: cluster.jobs()[job]["nodes"] not in ("", lost), "on the other machine")
    cluster.wait(lambda: "another process is writing" in _told(project), "refused by the lock")
    first.kill()  # as the machine's end would, or its administrator
    training.ended()
    cluster.start_node(lost)
    _as_expected(project, expected)
    cluster.wait(lambda: cluster.nodes_are("idle"), "nodes ready")


def test_a_driver_that_dies_and_is_started_again_waits_for_its_jobs(
    project: Path, cluster: Cluster, training: Driver, expected: dict[str, torch.Tensor]
) -> None:
    job, before = _job(cluster), set(cluster.jobs())
    training.process.kill()
    training.process.wait(30)
    unlocked = Driver(project, cluster, "--unlock", configfiles=(*CONFIGFILES, "long.yaml"))
    unlocked.ended()
    second = _train(project, cluster)
    cluster.wait(lambda: f"`scancel {job}`" in second.output(), "the job named")
    assert "Nothing to be done" in second.ended()
    assert not set(cluster.jobs()) - before
    assert cluster.show(job)["JobState"] == "COMPLETED"
    _as_expected(project, expected, resumed=False)


def test_a_full_disk_fails_the_job_with_its_reason_and_leaves_nothing_half_written(
    project: Path, cluster: Cluster, expected: dict[str, torch.Tensor]
) -> None:
    limit = 4 * 2**20  # Slurm takes the limits of who submits along to the job

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    (project / LOG).unlink(missing_ok=True)
    (project / "new_store.yaml").write_text("tracking: {uri: sqlite:///results/new.db}")  # a small file
    arguments = ("train_reference", "--forcerun", "train_reference_job", "--retries", "0")
    configfiles = (*CONFIGFILES, "long.yaml", "new_store.yaml")
    full = Driver(project, cluster, *arguments, configfiles=configfiles, before=small_files)
    told = full.ended(1)
    assert "no room" in _told(project), told
    assert not (project / WEIGHTS).exists()
    assert not (project / STATE).exists()
    assert not list((project / "results").rglob("*.partial"))
    _train(project, cluster).ended()
    _as_expected(project, expected, resumed=False)
