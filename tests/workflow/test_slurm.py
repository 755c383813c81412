"""`snakemake --profile slurm` on a real Slurm: the whole DAG, its trainings on two machines."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.workflow.cluster_project import Driver, adapt_profile, cluster_project
from tests.workflow.slurm_cluster import Cluster

TRAININGS = ("train_reference", "learn_prompt", "unlearn", "train_baseline")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cluster_project(tmp_path_factory.mktemp("cluster") / "project")


@pytest.fixture(scope="module")
def whole(project: Path, cluster: Cluster) -> str:
    """The output of the driver of a whole DAG, its trainings on two machines."""
    adapt_profile(project, nodes=2, cpus_per_gpu=1)
    return Driver(project, cluster, "--verbose").ended(seconds=900)


def test_the_dag_ends_in_tables(project: Path, cluster: Cluster, whole: str) -> None:
    tables = project / "results/cluster/tables"
    assert {"zero_shot.csv", "linear_probe.csv", "retrieval.csv"} <= {path.name for path in tables.iterdir()}
    jobs = cluster.jobs()
    assert {job["state"] for job in jobs.values()} == {"COMPLETED"}
    for job in jobs.values():
        trains = re.match("rule_(train|learn|unlearn)", job["comment"])
        assert job["nodes"] == ("n[1-2]" if trains else job["nodes"])
        assert job["partition"] == ("gpu" if trains or "extract_features" in job["comment"] else "cpu")


def test_every_gpu_rule_asks_for_one_task_per_machine_and_its_gpus(project: Path, whole: str) -> None:
    calls: dict[str, set[str]] = {}
    for call in re.findall(r"^sbatch call: (.*)$", whole, re.MULTILINE):
        rule = re.search(r"--comment rule_(\w+?_job)", call)
        if "-p gpu" in call:
            assert rule
            asked = re.sub(
                r"--(job-name|output|comment) \S+|-D \S+|sbatch|--parsable|--export=ALL|/dev/stdin", "", call
            )
            calls.setdefault(rule[1], set()).add(" ".join(asked.split()))
    training = (
        "-p gpu -t 1440 --mem {memory} --nodes=2 --requeue --ntasks=2 --cpus-per-task=1 --signal=TERM@120 --gres=gpu:1"
    )
    assert {
        rule: {re.sub(r"--mem \d+", "--mem {memory}", call) for call in found} for rule, found in calls.items()
    } == {
        "train_reference_job": {training},
        "learn_prompt_job": {training},
        "unlearn_job": {training},
        "train_baseline_job": {training},
        "extract_features_0_job": {"-p gpu -t 240 --mem {memory} --requeue --cpus-per-task=8 --gpus=1"},
    }


def test_trainings_ran_in_two_processes_and_evaluations_shared_jobs(
    project: Path, cluster: Cluster, whole: str
) -> None:
    client = MlflowClient(f"sqlite:///{project}/results/mlflow.db")
    experiment = client.get_experiment_by_name("cluster")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    by_stage = Counter(run.data.tags["stage"] for run in runs if "stage" in run.data.tags)
    assert by_stage["eval_zeroshot"] == by_stage["eval_probe"] == by_stage["eval_retrieval"] == 4
    processes = {run.data.tags["processes"] for run in runs if run.data.tags.get("stage") in TRAININGS}
    assert processes == {"2"}
    groups = [job for job in cluster.jobs().values() if job["comment"].startswith("rule_evaluation")]
    assert len(groups) == 2  # eight zero-shot and retrieval evaluations, at most six in one
