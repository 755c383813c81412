"""What all tests have in common: where their steps leave records, who runs what, and how long each file took."""

from __future__ import annotations

import os
import tempfile
from collections import Counter

import pytest

# A worker a core: threads of several would wait for each other. `OMP_NUM_THREADS=2 make test` is another way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No step of a test tells MLflow of itself, and none writes into the repository.
os.environ["PIPELINE_RUNS_FOLLOWED"] = "1"
os.environ["PIPELINE_RESULTS_DIR"] = tempfile.mkdtemp(prefix="results")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for other processes is begun first.

    A test is marked `process` where its file starts processes: `make quick` leaves those out.
    """
    for item in items:
        module = getattr(item, "module", None)
        if "workflow" in item.path.parts or any(hasattr(module, name) for name in ("subprocess", "multiprocessing")):
            item.add_marker("process")
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.get_closest_marker("process") is None))


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
