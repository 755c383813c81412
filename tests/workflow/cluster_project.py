"""A project on a cluster: its configuration, its copy of the profile, and the Snakemake process that drives it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from tests.workflow.slurm_cluster import Cluster
from tests.workflow.snakemake_runs import workspace

MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CLASSES = {"fruit": ["food/fruit"], "office supply": ["office"], "arrow": ["shapes/arrows"], "tool": ["tools"]}
CONFIGURATION = """
experiment: cluster
methods: [continued, ncu]
model: {architecture: config/models/vit.json}
download_images:
  embedded_parquet: pictures.parquet
  fault_fraction: 0.025
  samples_per_shard: 25
  timeout_seconds: 1
  retry_passes: 1
train_reference: {training: {batch_size: 64}}
learn_prompt: {training: {batch_size: 64}}
unlearn: {training: {batch_size: 64}}
"""
CONFIGFILES = ("config/smoke.yaml", "cluster.yaml")
IMPATIENT = Path(__file__).with_name("impatient_snakemake.py")


def cluster_project(folder: Path) -> Path:
    """A workspace with a small vision transformer, whose training any number of processes may share, and 4 classes."""
    workspace(folder)
    (folder / "config/models/vit.json").write_text(json.dumps(MODEL))
    (folder / "cluster.yaml").write_text(CONFIGURATION)
    pictures = pq.read_table(folder / "resources/openclipart/openclipart.parquet")
    chosen = pa.array([category for categories in CLASSES.values() for category in categories])
    pq.write_table(pictures.filter(pc.is_in(pictures["category"], chosen)), folder / "pictures.parquet")
    row = yaml.safe_load((folder / "config/datasets.yaml").read_text())["openclipart"]
    row |= {"n": {"test": 125, "train": None}, "classes": len(CLASSES), "templates": row["templates"][:2]}
    row["sources"] = [row["sources"][0] | {"path": "pictures.parquet", "categories": CLASSES}]
    (folder / "config/datasets.yaml").write_text(yaml.safe_dump({"openclipart": row}, sort_keys=False))
    return folder


def copied(project: Path, folder: Path) -> Path:
    """A project with everything that another one has made, and a store of MLflow of its own."""
    return shutil.copytree(project, folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))


def adapt_profile(folder: Path, mem_mb: int | None = None, **values: object) -> None:
    """Edit the first block of the profile as a user would, in a copy of it; see a file written elsewhere sooner.

    `mem_mb` is the memory of trainings and features, which the driver else works out: it has the model counted.
    """
    text = (folder / "workflow/profiles/slurm/config.yaml").read_text()
    for name, value in ({"latency-wait": 20, "slurm-init-seconds-before-status-checks": 1} | values).items():
        text, found = re.subn(rf"^(\s*{name}:) \S+", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1, name
    if mem_mb is not None:
        on_gpus = r"^( +)slurm_partition: \?gpu_partition$"
        text, found = re.subn(on_gpus, rf"\g<0>\n\1mem_mb: {mem_mb}", text, flags=re.MULTILINE)
        assert found
    if (folder / "slurm").is_symlink():
        (folder / "slurm").unlink()
    (folder / "slurm").mkdir(exist_ok=True)
    (folder / "slurm/config.yaml").write_text(text)


class Driver:
    """A running `snakemake --profile slurm`, which looks at the queue every second."""

    def __init__(
        self, folder: Path, cluster: Cluster, *arguments: str, configfiles: tuple[str, ...] = CONFIGFILES,
        before: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        command = [sys.executable, str(IMPATIENT), *arguments, "--profile", "slurm", "--configfile", *configfiles]
        self.log = folder / f"driver{time.monotonic_ns()}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                command, cwd=folder, env=cluster.environment, stdout=stream, stderr=stream, start_new_session=True,
                preexec_fn=before,
            )  # fmt: skip

    def output(self) -> str:
        return self.log.read_text()

    def ended(self, code: int = 0, seconds: float = 600) -> str:
        """Its output, once it has ended with this exit code."""
        try:
            found = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            raise
        assert found == code, self.output()[-6000:]
        return self.output()

    def stop(self) -> None:
        """End it as Ctrl-C does, with its jobs, where it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(120)


@dataclass(frozen=True)
class Held:
    """A training that is stopped (SIGSTOP): its job and its process."""

    job: str
    process: psutil.Process

    def told_to_end(self) -> bool:
        """Whether SIGTERM waits for it to go on, or has come: a training takes one, and ignores more."""
        try:
            told = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return True
        masks = re.findall(r"^(?:ShdPnd|SigIgn):\s+([0-9a-f]+)$", told, re.MULTILINE)
        return any(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks)


def hold(project: Path, cluster: Cluster, driver: Driver, state: Path) -> Held:
    """Stop the training of the reference, once its present attempt has kept a state."""
    found: list[psutil.Process] = []

    def kept_its_own() -> bool:
        if not (found and found[0].is_running()):
            found[:] = _trainings(project)[-1:]
        return bool(found) and state.is_file() and state.stat().st_mtime > found[0].create_time()

    cluster.wait(lambda: kept_its_own() or driver.process.poll() is not None, "a state kept", every=0.05)
    assert driver.process.poll() is None, driver.output()[-3000:]
    found[0].suspend()
    cluster.wait(lambda: found[0].status() == psutil.STATUS_STOPPED, "stopped: the state is on the disk")
    running = cluster.jobs("RUNNING").items()
    (job,) = [job for job, row in running if row["folder"] == str(project) and "train_reference" in row["comment"]]
    return Held(job, found[0])


def _trainings(project: Path) -> list[psutil.Process]:
    """The processes that train the reference of a project, oldest first."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "create_time"]):
        words = process.info["cmdline"] or []
        trains = "pipeline_steps.train_reference" in words and words[0].endswith("python")
        trains = trains and not words[1].endswith("torchrun")
        if trains and process.info["cwd"] == str(project):
            found.append(process)
    return sorted(found, key=lambda process: process.info["create_time"])
