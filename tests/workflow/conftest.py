"""Fixtures that several files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.cluster_project import CONFIGFILES, cluster_project
from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.workflow.snakemake_runs import snakemake


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm."""
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="session")
def pairs_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project for a cluster whose pairs were made on this machine, by one job. It is there to be copied.

    Under pytest-xdist the first process that wants it makes it for all.
    """
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder, whole = place / "pairs", place / "pairs.whole"
    with FileLock(place / "pairs.lock"):
        if not whole.exists():
            cluster_project(folder)
            ran = snakemake(folder, "build_manifest", configfiles=CONFIGFILES)
            assert ran.returncode == 0, ran.stdout[-3000:]
            whole.touch()
    return folder
