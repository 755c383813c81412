"""A short real job on every partition: is the folder shared, does torch see the GPU?"""

from __future__ import annotations

import json
import secrets
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_steps.cluster.checks import Finding, ask
from pipeline_steps.cluster.requests import Request

_MINUTES, _MEM_MB = 10, 6_000
_LATENCY_SECONDS = 30
_ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def all_jobs(requests: Sequence[Request], folder: Path, wait_seconds: float) -> list[Finding]:
    """A job on each partition asked for, with a GPU where jobs there have one. None is left in the queue.

    `folder` is the results folder.
    """
    gpu_of: dict[str, bool] = {}
    for request in requests:
        gpu_of[request.partition] = gpu_of.get(request.partition, False) or bool(request.gres or request.gpus)
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Finding] = []
    for partition, gpu in gpu_of.items():
        asked = next(one for one in requests if one.partition == partition)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".check_cluster") as place:
            found += _job(Path(place), asked, wait_seconds, gpu=gpu)
    return found


def _job(place: Path, asked: Request, wait_seconds: float, *, gpu: bool) -> list[Finding]:
    token, answer, log = place / "token", place / "answer.json", place / "log"
    secret = secrets.token_hex(8)
    token.write_text(secret, encoding="utf-8")
    package = str(Path(__file__).parents[2])
    called = ["python", "-m", "pipeline_steps.cluster.probe", str(token), str(answer)]
    script = f"export PYTHONPATH={shlex.quote(package)}; {shlex.join(called)}"
    options = [
        f"--partition={asked.partition}",
        f"--time={_MINUTES}",
        f"--mem={_MEM_MB}",
        f"--output={log}",
        f"--wrap={script}",
    ]
    options += ["--gres=gpu:1"] if gpu else []
    named = {"account": asked.account, "constraint": asked.constraint, "qos": asked.qos}
    options += [f"--{name}={value}" for name, value in named.items() if value]
    check = f"a job on {asked.partition}"
    code, job = ask("sbatch", "--parsable", "--job-name=check_cluster", *options)
    if code:
        return [Finding(check, job.splitlines()[-1], "sbatch refuses a job of one CPU; see its reason")]
    job = job.split(";")[0]
    state = _wait(job, answer, wait_seconds)
    if answer.is_file():
        return judged(check, json.loads(answer.read_text(encoding="utf-8")), secret, gpu=gpu)
    ask("scancel", job)
    if state in _ACTIVE:
        found = f"was {state} after {wait_seconds:.0f} s: not checked"
        return [Finding(check, found, "try again later, or with a longer --wait", warning=True)]
    said = log.read_text(encoding="utf-8", errors="replace").strip()[-500:] if log.is_file() else ""
    return [Finding(
        check, f"ended as {state} and left no answer in {place.parent}{': ' + said if said else ''}",
        "put the results folder (results_dir) and the environment where every machine sees the same files",
    )]  # fmt: skip


def _wait(job: str, answer: Path, seconds: float) -> str:
    """The job's state when its answer came, when it had ended without, or when so many seconds were over."""
    give_up, state = time.monotonic() + seconds, "PENDING"
    while time.monotonic() < give_up and not answer.is_file():
        time.sleep(1)
        active = state in _ACTIVE
        state = ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")[1]
        if active and state not in _ACTIVE:  # what it wrote may be seen here a little later
            give_up = min(give_up, time.monotonic() + _LATENCY_SECONDS)
    return state


def judged(check: str, told: dict[str, Any], secret: str, *, gpu: bool) -> list[Finding]:
    """Findings from what a job told (see probe.py)."""
    if "error" in told:
        return [Finding(
            check, f"on {told['host']}: {told['error']}",
            "the job has to find this environment: put it on the shared file system, and run `make setup` there",
        )]  # fmt: skip
    where = f"on {told['host']}: Python {told['python']}, torch {told['torch']}"
    if told["token"] != secret:
        remedy = "put results_dir on a file system that every machine sees"
        return [Finding(check, f"{where}, but not the file that was written here", remedy)]
    found = [Finding(check, f"{where}, the same files as here")]
    if gpu and not told["gpus"]:
        found.append(Finding(
            f"the GPU on {check.split()[-1]}",
            f"Slurm gave CUDA_VISIBLE_DEVICES={told['cuda_visible_devices']}, and torch sees none",
            "its driver may be older than torch's CUDA build (nvidia-smi there), or its GPUs are not NVIDIA's",
        ))  # fmt: skip
    elif gpu:
        found.append(Finding(f"the GPU on {check.split()[-1]}", ", ".join(told["gpu_names"])))
    return found
