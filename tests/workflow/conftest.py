"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm of the file's own."""
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running
