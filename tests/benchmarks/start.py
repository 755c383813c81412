"""What steps take before they work: CPU seconds and memory of each step's start, and the share of a run that is start.

`python -m tests.benchmarks.start` starts every step twice: for its help, and for all that its work imports.
`--run ARGUMENTS` runs Snakemake with these arguments and prints, by step, the CPU seconds of all its processes and of
their start: until Python is there, and all imports.
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tabulate import tabulate

from tests.support.startup import Start, starts, startup_environment
from tests.unit.paths import REPOSITORY

PACKAGE = REPOSITORY / "pipeline_steps"


def measured(words: list[str], rounds: int) -> tuple[float, float]:
    """CPU seconds (median) and peak MiB of a Python process."""
    found = []
    for _ in range(rounds):
        process = subprocess.Popen([sys.executable, *words], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        _, _, used = os.wait4(process.pid, 0)
        found.append((used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
    return statistics.median(seconds for seconds, _ in found), max(peak for _, peak in found)


def imports_of(step: str) -> str:
    """A program that imports all that a step's functions import, wherever in its module it says so."""
    tree = ast.parse((PACKAGE / f"{step}.py").read_text(encoding="utf-8"))
    return "\n".join(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def step_table(rounds: int) -> str:
    """A row per step."""
    rows = []
    for step in sorted(path.stem for path in PACKAGE.glob("[!_]*.py")):
        help_seconds, _ = measured(["-m", f"pipeline_steps.{step}", "--help"], rounds)
        work_seconds, peak = measured(["-c", imports_of(step)], rounds)
        rows.append([step, f"{help_seconds:.2f}", f"{work_seconds:.1f}", f"{peak:,.0f}"])
    header = ["step", "help, CPU s", "imports of its work, CPU s", "memory then, MiB"]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def run_table(found: list[Start]) -> str:
    """A row per step over all of its processes, and one for all."""
    by_step: dict[str, list[Start]] = defaultdict(list)
    for one in found:
        by_step[one.step].append(one)
    rows = []
    for step, of_step in [*sorted(by_step.items()), ("all", found)]:
        spent, start = (sum(getattr(one, name) for one in of_step) for name in ("cpu_seconds", "import_seconds"))
        rows.append([step, len(of_step), f"{spent:.1f}", f"{start:.1f}", f"{start / spent:.0%}"])
    return tabulate(
        rows, ["step", "processes", "CPU s", "of it start", "share"], tablefmt="pipe", disable_numparse=True
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes per step and number")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="Snakemake's arguments: run it, and say what was start")
    given = parser.parse_args()
    if given.run is None:
        print(step_table(given.rounds))
        return
    with tempfile.TemporaryDirectory() as log:
        environment = startup_environment(Path(log), os.environ)
        began = time.perf_counter()
        subprocess.run(["snakemake", *given.run], cwd=REPOSITORY, env=environment, check=True)
        print(f"{time.perf_counter() - began:.0f} s in all\n\n{run_table(starts(Path(log)))}")


if __name__ == "__main__":
    main()
