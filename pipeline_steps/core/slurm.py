"""What this project asks of Slurm beside Snakemake's executor: to requeue a job, and which jobs are left of a run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

LOG = logging.getLogger("pipeline_steps")
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def job_prefix(experiment: str) -> str:
    """What the names of an experiment's jobs begin with, as far as the executor allows: 50 letters, digits, _ and -."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", experiment)[:50]


def wait_for_left_jobs(prefix: str, say: Callable[[str], None], seconds: float = 15.0) -> None:
    """Wait until none of these jobs, which an earlier run in this folder left in the queue, is there any more.

    A run that died (with its login node, say) leaves its jobs, and they go on. Submitted once more beside them they
    would find their outputs locked; once they have ended, what they made counts.
    """
    told: list[str] = []
    while left := _left_jobs(prefix):
        if left != told:
            say(
                f"Waiting for jobs that an earlier run left in the queue: {' '.join(left)}. What they make is kept; "
                f"`scancel {' '.join(left)}` ends the waiting, and trainings then go on from their last state."
            )
        told = left
        time.sleep(seconds)


def _left_jobs(prefix: str) -> list[str]:
    lines = _slurm("squeue", "--me", "--noheader", "--format=%i|%j|%Z")
    rows = [line.split("|", 2) for line in (lines or "").splitlines()]
    here = Path.cwd().resolve()
    return [
        job for job, name, folder in rows if re.fullmatch(f"{prefix}_{_UUID}", name) and Path(folder).resolve() == here
    ]


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
