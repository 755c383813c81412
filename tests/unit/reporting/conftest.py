from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.reporting.grid import Grid, read_grid
from pipeline_steps.reporting.measured import Bootstrap, Measured, measure_grid
from pipeline_steps.reporting.paper.values import Paper, read_paper
from pipeline_steps.reporting.summary import Summary, summarise
from tests.results_tree import SIGNALS, MadeSet, write_tree
from tests.unit.paths import REPOSITORY

METHODS = tuple(SIGNALS)
HOLE = "cars cannot be had: put it into data/evaluation/cars"
CLASSIFICATION, RETRIEVAL = ("classification",), ("retrieval",)
PAPER_SETS = (
    MadeSet("cifar10", tasks=CLASSIFICATION),
    MadeSet("pets", "mean_per_class", CLASSIFICATION),
    MadeSet("eurosat_vtab", tasks=CLASSIFICATION),
    MadeSet("cars", tasks=CLASSIFICATION, hole=HOLE),
    MadeSet("imagenet1k", tasks=CLASSIFICATION),
    MadeSet("mscoco", "recall", RETRIEVAL, folds=2),
)
PAPER_SIGNALS = {"continued": 0.3, "gradient_ascent": 0.22, "ncu": 0.35, "ncu_v3": 0.31, "ncu_500k": 0.28}


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
def paper_grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Some of the paper's sets, one of them a hole, one on another split, one in folds; methods of Tables 4 and 5."""
    folder = write_tree(
        tmp_path_factory.mktemp("paper") / "demo", PAPER_SIGNALS, datasets=PAPER_SETS, histories=False
    )  # fmt: skip
    return read_grid(folder, tuple(PAPER_SIGNALS), (0,))


@pytest.fixture(scope="session")
def bootstrap() -> Bootstrap:
    return Bootstrap(samples=150, confidence=0.95, seed=0)


@pytest.fixture(scope="session")
def measured(grid: Grid, bootstrap: Bootstrap) -> Measured:
    return measure_grid(grid, bootstrap)


@pytest.fixture(scope="session")
def wide_measured(wide_grid: Grid, bootstrap: Bootstrap) -> Measured:
    return measure_grid(wide_grid, bootstrap)


@pytest.fixture(scope="session")
def paper_measured(paper_grid: Grid, bootstrap: Bootstrap) -> Measured:
    return measure_grid(paper_grid, bootstrap)


@pytest.fixture(scope="session")
def summary(measured: Measured) -> Summary:
    return summarise(measured)


@pytest.fixture(scope="session")
def paper() -> Paper:
    return read_paper(REPOSITORY / "resources" / "paper" / "tables.yaml")
