"""`snakemake --profile slurm` on a real Slurm: the DAG with trainings on two machines, and what goes wrong on clusters."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.workflow.snakemake_runs import snakemake, workspace

MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CONFIGURATION = """
experiment: cluster
model: {architecture: config/models/vit.json}
train_reference: {training: {batch_size: 64}}
"""
LONG = "train_reference: {training: {epochs: 12, save_minutes: 1000}}"
CONFIGFILES = ("config/smoke.yaml", "cluster.yaml")
REFERENCE = Path("results/cluster/train_reference/reference/seed0")
PREEMPTION = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster", PREEMPTION) as running:
        yield running


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("cluster") / "project")
    (folder / "config/models/vit.json").write_text(json.dumps(MODEL))
    (folder / "cluster.yaml").write_text(CONFIGURATION)
    (folder / "long.yaml").write_text(LONG)
    return folder


def adapt_profile(folder: Path, **values: object) -> None:
    """Edit the first block of the profile as a user would, in a copy of it; shorter waits between looks at the queue."""
    text = (folder / "workflow/profiles/slurm/config.yaml").read_text()
    for name, value in ({"latency-wait": 20, "slurm-init-seconds-before-status-checks": 2} | values).items():
        text, found = re.subn(rf"^(\s*{name}:) \S+", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1, name
    if (folder / "slurm").is_symlink():
        (folder / "slurm").unlink()
    (folder / "slurm").mkdir(exist_ok=True)
    (folder / "slurm/config.yaml").write_text(text)


class Driver:
    """A running `snakemake --profile slurm`."""

    def __init__(self, folder: Path, cluster: Cluster, *arguments: str, configfiles: tuple[str, ...] = CONFIGFILES) -> None:
        command = ["snakemake", *arguments, "--profile", "slurm", "--configfile", *configfiles]
        self.log = folder / f"driver{time.monotonic_ns()}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                command, cwd=folder, env=cluster.environment, stdout=stream, stderr=stream, start_new_session=True
            )

    def output(self) -> str:
        return self.log.read_text()

    def ended(self, code: int = 0, seconds: float = 600) -> str:
        """Its output, once it has ended with this exit code."""
        try:
            found = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            raise
        assert found == code, self.output()[-6000:]
        return self.output()


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
