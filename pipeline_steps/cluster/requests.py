"""What the jobs of a workflow would ask of Slurm, from a dry run of Snakemake itself."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

    def options(self) -> list[str]:
        """The options of sbatch that say the same, as the executor gives them."""
        optional = {
            "--account": self.account, "--gres": self.gres, "--constraint": self.constraint, "--qos": self.qos,
            "--gpus": None if self.gres else self.gpus or None,
        }  # fmt: skip
        required = {
            "--partition": self.partition, "--nodes": self.nodes, "--cpus-per-task": self.cpus, "--mem": self.mem_mb,
            "--time": self.minutes,
        }  # fmt: skip
        given = required | {name: value for name, value in optional.items() if value is not None}
        return [f"{name}={value}" for name, value in given.items()]


def requests_of(profile: str, configfiles: Sequence[str]) -> list[Request]:
    """Every distinct request of the workflow's jobs, in the order of the DAG, with finished jobs left out.

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
        jobs = json.loads(told.read_text(encoding="utf-8"))["jobs"]
    return list(dict.fromkeys(_request(job) for job in jobs))


def _request(job: dict[str, object]) -> Request:
    asks = job["asks"]
    assert isinstance(asks, dict)  # noqa: S101 - our own JSON
    return Request(
        stage=str(job["stage"]), partition=str(asks["slurm_partition"]), account=asks.get("slurm_account"),
        nodes=asks.get("nodes", 1), gres=asks.get("gres"), gpus=asks.get("gpu", 0), cpus=int(str(job["threads"])),
        mem_mb=asks.get("mem_mb", 0), minutes=int(str(job["runtime"])), constraint=asks.get("constraint"),
        qos=asks.get("qos"),
    )  # fmt: skip
