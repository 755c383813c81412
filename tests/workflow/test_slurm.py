"""`snakemake --profile slurm` on a real Slurm: unlearning on two machines, preempted on the way, to the tables.

What comes before it is there, made on one machine. How pairs are made on a cluster is in test_slurm_downloads, how a
reference fares there in test_slurm_faults; that all trainings ask for the same is in test_check_cluster.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file

from tests.workflow.cluster_project import CONFIGFILE, Driver, adapt_profile, hold
from tests.workflow.open_runs import statuses
from tests.workflow.slurm_cluster import Cluster

EDITED = "{methods: [ncu], unlearn: {training: {epochs: 6, pairs: 64, batch_size: 16, save_minutes: 1000}}}"
FILES = (CONFIGFILE, "edited.yaml")
UNLEARNED = Path("results/smoke/unlearn/ncu/seed0")
WEIGHTS = "checkpoint/open_clip_model.safetensors"


@pytest.fixture(scope="module")
def project(copied: Callable[..., Path]) -> Path:
    folder = copied("cluster")
    (folder / "edited.yaml").write_text(EDITED)
    adapt_profile(folder, nodes=2, cpus_per_gpu=1, evaluation=3)
    return folder


@pytest.fixture(scope="module")
def driver(project: Path, cluster: Cluster) -> Iterator[Driver]:
    """The driver of all that follows an edit of unlearn."""
    driver = Driver(project, cluster, "--verbose", configfiles=FILES)
    yield driver
    driver.stop()


@pytest.fixture(scope="module")
def preempted(project: Path, cluster: Cluster, driver: Driver) -> tuple[str, str]:
    """The job of a training on two machines that gave way to another one, and what it told of that."""
    held = hold(project, cluster, driver, "unlearn", project / UNLEARNED / "checkpoint.resume.unlearn.pt")
    assert cluster.jobs()[held.job]["nodes"] == "n[1-2]"
    cluster.ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait(held.told_to_end, "told to end", every=0.02)
    held.resume()
    cluster.wait(lambda: cluster.show(held.job)["Restarts"] == "1", "requeued")
    return held.job, _told(project)


@pytest.fixture(scope="module")
def whole(driver: Driver, preempted: tuple[str, str]) -> str:
    """The output of the driver."""
    return driver.ended(seconds=900)


def _told(project: Path) -> str:
    return (project / "results/smoke/logs/unlearn/ncu/seed0.log").read_text()


def _jobs(project: Path, cluster: Cluster) -> list[dict[str, str]]:
    """The jobs of this project."""
    return [job for job in cluster.jobs().values() if job["folder"] == str(project)]


def test_a_preempted_training_on_two_machines_keeps_its_state_and_goes_on(
    project: Path, finished: Path, cluster: Cluster, preempted: tuple[str, str], whole: str
) -> None:
    job, told = preempted
    kept = re.search(r"is kept after step (\d+)", told)
    assert kept
    assert cluster.show(job)["JobState"] == "COMPLETED"
    assert f"goes on after step {kept[1]}" in _told(project)
    undisturbed = load_file(finished / UNLEARNED / WEIGHTS)
    assert load_file(project / UNLEARNED / WEIGHTS).keys() == undisturbed.keys()
    assert statuses(project, "smoke", "unlearn")[:2] == ["FINISHED", "KILLED"]


def test_the_dag_ends_in_tables(project: Path, cluster: Cluster, whole: str) -> None:
    tables = project / "results/smoke/tables"
    assert {"zero_shot.csv", "linear_probe.csv", "retrieval.csv"} <= {path.name for path in tables.iterdir()}
    jobs = _jobs(project, cluster)
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    for job in jobs:
        trains = re.match("rule_(train|learn|unlearn)", job["comment"])
        assert job["nodes"] == ("n[1-2]" if trains else job["nodes"])
        assert job["partition"] == ("gpu" if trains or "extract_features" in job["comment"] else "cpu")


def test_every_gpu_rule_asks_for_one_task_per_machine_and_its_gpus(project: Path, whole: str) -> None:
    calls: dict[str, set[str]] = {}
    for call in re.findall(r"^sbatch call: (.*)$", whole, re.MULTILINE):
        rule = re.search(r"--comment rule_(\w+?_job)", call)
        if "-p gpu" in call:
            assert rule
            asked = re.sub(r"--(job-name|output|comment) \S+|-D \S+|sbatch|--parsable|--export=ALL|--wrap=.*", "", call)
            calls.setdefault(rule[1], set()).add(" ".join(asked.split()))
    training = (
        "-p gpu -t 1440 --mem {memory} --nodes=2 --requeue --ntasks=2 --cpus-per-task=1 --signal=TERM@120 --gres=gpu:1"
    )
    assert {
        rule: {re.sub(r"--mem \d+", "--mem {memory}", call) for call in found} for rule, found in calls.items()
    } == {
        "unlearn_job": {training},
        "extract_features_0_job": {"-p gpu -t 240 --mem {memory} --requeue --cpus-per-task=8 --gpus=1"},
    }


def test_the_training_ran_in_two_processes_and_evaluations_shared_jobs(
    project: Path, cluster: Cluster, whole: str
) -> None:
    client = MlflowClient(f"sqlite:///{project}/results/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    query = f"attributes.status = 'FINISHED' and tags.output LIKE '{project}/%'"
    runs = client.search_runs([experiment.experiment_id], query)
    by_stage = Counter(run.data.tags["stage"] for run in runs)
    assert by_stage["eval_zeroshot"] == by_stage["eval_probe"] == by_stage["eval_retrieval"] == 2
    assert {run.data.tags["processes"] for run in runs if run.data.tags["stage"] == "unlearn"} == {"2"}
    groups = [job for job in _jobs(project, cluster) if job["comment"].startswith("rule_evaluation")]
    assert len(groups) == 2  # four zero-shot and retrieval evaluations, at most three in one
