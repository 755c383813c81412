"""`snakemake --profile slurm` on a real Slurm: the whole DAG, its trainings on two machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.cluster_project import Driver, adapt_profile, cluster_project
from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


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
