"""Send the records of runs to MLflow: what has not been sent yet. Snakemake and every step do so by themselves."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_steps.core.record import record_folders, results_dir

if TYPE_CHECKING:
    from pipeline_steps.tracking.sender import Pass, Sender

_SECONDS, _SECONDS_AFTER_AN_ERROR = 10.0, 20.0


def main(argv: Sequence[str] | None = None) -> int:
    """Send, and say in a line what was not taken. Returns 1 where something was not."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_steps.send_runs", description=__doc__)
    parser.add_argument("--results-dir", type=Path, default=results_dir(), help="where the experiments are")
    parser.add_argument(
        "--uri", help="the MLflow store; default: MLFLOW_TRACKING_URI, or mlflow.db in the results folder"
    )
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    arguments = parser.parse_args(argv)
    results = arguments.results_dir.absolute()
    if not arguments.follow and not record_folders(results):
        return 0
    from pipeline_steps.tracking.sender import Sender  # mlflow: seconds

    uri = arguments.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results}/mlflow.db"
    sender = Sender(results, uri)
    if arguments.follow:
        os.nice(10)
        _follow(sender)
    last = sender.send()
    if last.kept:
        command = f"{parser.prog} --results-dir {shlex.quote(str(arguments.results_dir))}"
        print(f"send_runs: MLflow has not taken {last.kept} runs ({last.reason}); later: {command}", file=sys.stderr)
    return 1 if last.kept else 0


def _follow(sender: Sender) -> None:
    told = False
    while True:
        found: Pass = sender.send()
        if found.kept and not told:
            print(
                f"send_runs: MLflow takes no runs now ({found.reason}); they are kept and sent later", file=sys.stderr
            )
            told = True
        ready, _, _ = select.select([sys.stdin], [], [], _SECONDS_AFTER_AN_ERROR if found.kept else _SECONDS)
        if ready and not os.read(sys.stdin.fileno(), 1024):
            return


if __name__ == "__main__":
    sys.exit(main())
