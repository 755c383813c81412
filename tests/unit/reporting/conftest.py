from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.reporting.grid import Grid, read_grid
from pipeline_steps.reporting.statistics import Bootstrap
from pipeline_steps.reporting.summary import Summary, summarise
from tests.results_tree import SIGNALS, write_tree

METHODS = tuple(SIGNALS)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One seed, every method, histories with injected noise."""
    return write_tree(tmp_path_factory.mktemp("results") / "demo")


@pytest.fixture(scope="session")
def grid(results: Path) -> Grid:
    return read_grid(results, METHODS, (0,))


@pytest.fixture(scope="session")
def wide_grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Three seeds and two data sets of two methods."""
    folder = tmp_path_factory.mktemp("wide") / "demo"
    signals = {"continued": 0.3, "ncu": 0.2}
    write_tree(folder, signals, seeds=(0, 1, 2), datasets=("openclipart", "second"), histories=False)
    return read_grid(folder, tuple(signals), (0, 1, 2))


@pytest.fixture(scope="session")
def bootstrap() -> Bootstrap:
    return Bootstrap(samples=150, confidence=0.95, seed=0)


@pytest.fixture(scope="session")
def summary(grid: Grid, bootstrap: Bootstrap) -> Summary:
    return summarise(grid, bootstrap)
