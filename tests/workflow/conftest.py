"""Fixtures that several files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.startup import first_starts_environment
from tests.support.warm_python import warm_python
from tests.workflow.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.workflow.snakemake_runs import small_project, snakemake, user_environment

FROM_TRAINING = (
    "runs", "train_*", "learn_prompt", "unlearn", "features", "extract_features", "eval_*", "tables", "figures",
    "findings.md", "*.db", "mlartifacts",
)  # fmt: skip


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real Slurm."""
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project whose whole DAG has run, with word of each step's start in `starts`. It is there to be copied.

    Under pytest-xdist the first process that wants it makes it for all.
    """
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder, whole = place / "finished", place / "finished.whole"
    with FileLock(place / "finished.lock"):
        if not whole.exists():
            small_project(folder)
            environment = first_starts_environment(folder / "starts", user_environment(), warm_python().python)
            ran = snakemake(folder, environment=environment)
            assert ran.returncode == 0, ran.stdout[-5000:]
            whole.touch()
    return folder


@pytest.fixture(scope="module")
def copied(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A copy of the finished project: `copied(name)`; with `pairs_only` as it was before the first training."""

    def copy(name: str, *, pairs_only: bool = False) -> Path:
        of_results = shutil.ignore_patterns(*(FROM_TRAINING if pairs_only else ()))

        def ignored(folder: str, names: list[str]) -> set[str]:
            return of_results(folder, names) if folder.startswith(f"{finished}/results") else {"starts"}

        return shutil.copytree(
            finished, tmp_path_factory.mktemp(name) / "project", symlinks=True, ignore=ignored
        )  # fmt: skip

    return copy
