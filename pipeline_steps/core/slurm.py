"""This process inside a job of Slurm."""

from __future__ import annotations

import logging
import os
import subprocess

LOG = logging.getLogger("pipeline_steps")


def requeue() -> bool:
    """Put this process's Slurm job back into the queue, where it still runs. Returns whether that was asked for.

    A job that runs on after SIGTERM was warned of its time limit or of a preemption, and shall go on later; one that
    somebody cancelled runs no more, and stays ended. Outside Slurm nothing happens.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or _slurm("squeue", "--noheader", "--format=%T", "--jobs", job) != "RUNNING":
        return False
    if _slurm("scontrol", "requeue", job) is None:
        return False
    LOG.info("asked Slurm to put job %s back into the queue", job)
    return True


def _slurm(*command: str) -> str | None:
    """What a command of Slurm prints, or None where it fails; the reason goes into the log."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        LOG.error("%s failed: %s %s", " ".join(command), error, getattr(error, "stderr", None) or "")
        return None
    return ran.stdout.strip()
