"""What all tests have in common: where their steps leave records, who runs what, and how long each file took."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.warm_python import name_warm_python, warm_python

# A worker a core: threads of several would wait for each other. `OMP_NUM_THREADS=2 make test` is another way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No step of a test tells MLflow of itself, and none writes into the repository.
os.environ["PIPELINE_RUNS_FOLLOWED"] = "1"
name_warm_python()
os.environ["PIPELINE_RESULTS_DIR"] = tempfile.mkdtemp(prefix="results")
atexit.register(shutil.rmtree, os.environ["PIPELINE_RESULTS_DIR"], ignore_errors=True)


def pytest_cmdline_main(config: pytest.Config) -> None:
    """The workers of pytest-xdist are forks of a process that has made the imports of all tests."""
    if getattr(config.option, "tx", None):
        config.option.tx = [f"popen//python={warm_python().python}" for _ in config.option.tx]


@pytest.fixture(scope="module")
def warm() -> Iterator[None]:
    """`sys.executable` starts at once: for tests of what processes do, not of what they load or need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", warm_python().python)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for other processes is begun first.

    A test is marked `process` where its file starts processes: `make quick` leaves those out.
    """
    for item in items:
        module = getattr(item, "module", None)
        starts = "warm" in getattr(item, "fixturenames", ()) or "workflow" in item.path.parts
        if starts or any(hasattr(module, name) for name in ("subprocess", "multiprocessing")):
            item.add_marker("process")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """First the file that makes the finished project, then what starts processes and has no need of it."""
    if item.path.name == "test_smoke.py":
        return 0
    if item.get_closest_marker("process"):
        return 2 if "finished" in getattr(item, "fixturenames", ()) else 1
    return 3


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The time of every file, the slowest first."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("seconds by file")
    for name, spent in seconds.most_common():
        terminalreporter.write_line(f"{spent:8.1f}  {name}")
    terminalreporter.write_line(f"{sum(seconds.values()):8.1f}  all")
