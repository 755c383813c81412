"""Merge the MLflow runs that steps spooled while a server was out of reach. Snakemake does so at its end."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, and say in a line what was merged and what was not. Returns 1 where a server took something not."""
    from pipeline_steps.core.spool import results_dir, spool_folders

    parser = argparse.ArgumentParser(prog="python -m pipeline_steps.merge_runs", description=__doc__)
    parser.add_argument("--results-dir", type=Path, default=results_dir(), help="where the experiments are")
    parser.add_argument("--uri", help="the server to merge into, if it has moved; else the one that the steps had")
    parser.add_argument(
        "--experiment", nargs="+", default=[], help="also end, as KILLED, their runs whose process is gone from here"
    )
    arguments = parser.parse_args(argv)
    if not arguments.experiment and not spool_folders(arguments.results_dir):
        return 0
    from pipeline_steps.core.tracking.merge import close_dead, merge_spools  # takes a second

    done = merge_spools(arguments.results_dir.absolute(), arguments.uri)
    if done.merged or done.running:
        running = f"; {done.running} of steps that still run stay" if done.running else ""
        print(f"merge_runs: {done.merged} spooled MLflow runs merged{running}", file=sys.stderr)
    if done.kept:
        command = f"{parser.prog} --results-dir {shlex.quote(str(arguments.results_dir))}"
        print(f"merge_runs: {done.kept} MLflow runs stay spooled ({done.reason}); later: {command}", file=sys.stderr)
    unclosed = next(filter(None, map(close_dead, arguments.experiment)), None)
    if unclosed:
        print(f"merge_runs: runs of dead processes may stay RUNNING ({unclosed})", file=sys.stderr)
    return 1 if done.kept or unclosed else 0


if __name__ == "__main__":
    sys.exit(main())
