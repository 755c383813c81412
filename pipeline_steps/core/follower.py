"""A process that sends the records of runs to MLflow while work goes on, so that no step waits for MLflow."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

LOG = logging.getLogger("pipeline_steps")


class Follower:
    """Sends until `finish`, or until this process is gone: it reads our end from a pipe that the system closes.

    Nothing is sent where PIPELINE_RUNS_FOLLOWED says that somebody else does.
    """

    def __init__(self, results: Path, uri: str | None = None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if os.environ.get("PIPELINE_RUNS_FOLLOWED"):
            return
        command = [sys.executable, "-m", "pipeline_steps.send_runs", "--follow", "--results-dir", str(results)]
        environment = os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {})  # others can read a command line
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment)

    def finish(self, seconds: float = 120) -> None:
        """Let it send what is left, and wait so long for that."""
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            LOG.warning("MLflow has not taken all runs after %.0f s; they are sent in the background", seconds)
