"""What the jobs of a workflow would ask of Slurm, from a dry run of Snakemake itself."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_steps.core.errors import PipelineError

_MANY = "1000000"  # cores, so that a dry run does not scale threads down to this machine's


@dataclass(frozen=True)
class Request:
    """What jobs of a stage ask for. Memory is MiB on each machine, `minutes` the time limit."""

    stage: str
    partition: str
    account: str | None
    nodes: int
    gres: str | None
    gpus: int
    cpus: int
    mem_mb: int
    minutes: int
    constraint: str | None = None
    qos: str | None = None
    extra: str = ""

    def options(self) -> list[str]:
        """The options of sbatch that say the same, as the executor gives them; the profile's slurm_extra comes last."""
        optional = {
            "--account": self.account, "--gres": self.gres, "--constraint": self.constraint, "--qos": self.qos,
            "--gpus": None if self.gres else self.gpus or None,
        }  # fmt: skip
        required = {
            "--partition": self.partition, "--nodes": self.nodes, "--cpus-per-task": self.cpus, "--mem": self.mem_mb,
            "--time": self.minutes,
        }  # fmt: skip
        given = required | {name: value for name, value in optional.items() if value is not None}
        return [*(f"{name}={value}" for name, value in given.items()), *shlex.split(self.extra)]


class Asked(NamedTuple):
    """What a workflow would ask for: every distinct request, and how the executor would ask after its jobs."""

    requests: list[Request]
    first_look_seconds: int
    status_command: str | None


def requests_of(profile: str, configfiles: Sequence[str]) -> Asked:
    """The requests of the workflow's jobs, in the order of the DAG, with finished jobs left out.

    Raises PipelineError with Snakemake's own words where the profile, the configuration or an input is wrong, and
    where the profile says no partition.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "requests.json")
        command = ["snakemake", "--profile", profile, "--dry-run", "--quiet", "all", "--nolock", "--cores", _MANY]
        command += ["--configfile", *configfiles] if configfiles else []
        environment = os.environ | {"PIPELINE_REQUESTS": str(told)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode or not told.is_file():
            raise PipelineError(
                f"`{' '.join(command)}` failed, or its profile gives no slurm_partition in default-resources:\n"
                f"{(ran.stdout + ran.stderr).strip()[-2000:]}"
            )
        found = json.loads(told.read_text(encoding="utf-8"))
    requests = list(dict.fromkeys(_request(job) for job in found["jobs"]))
    return Asked(requests, int(found["first_look"] or 0), found["status_command"])


def _request(job: dict[str, Any]) -> Request:
    asks, together = job["asks"], job["together"]
    return Request(
        stage=job["stage"], partition=asks["slurm_partition"], account=asks.get("slurm_account"),
        nodes=asks.get("nodes", 1), gres=asks.get("gres"), gpus=asks.get("gpu", 0), cpus=job["threads"] * together,
        mem_mb=asks.get("mem_mb", 0) * together, minutes=job["runtime"], constraint=asks.get("constraint"),
        qos=asks.get("qos"), extra=asks.get("slurm_extra", ""),
    )  # fmt: skip
