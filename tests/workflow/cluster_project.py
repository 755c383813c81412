"""A project on a cluster: its copy of the profile, the Snakemake process that drives it, and a step held still."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.warm_python import warm_python
from tests.workflow.slurm_cluster import Cluster

CONFIGFILE = "config/smoke.yaml"
IMPATIENT = "tests.workflow.impatient_snakemake"


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
        self, folder: Path, cluster: Cluster, *arguments: str, configfiles: tuple[str, ...] = (CONFIGFILE,),
        before: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        command = ["python", "-m", IMPATIENT, *arguments, "--profile", "slurm", "--configfile", *configfiles]
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
    """A step that is stopped (SIGSTOP): its job and its process."""

    job: str
    process: psutil.Process

    def resume(self) -> None:
        """Let it go on, where Slurm has not: before SIGTERM it may send SIGCONT."""
        with suppress(psutil.NoSuchProcess):
            self.process.resume()

    def told_to_end(self) -> bool:
        """Whether SIGTERM waits for it to go on, or has come: a step takes one, and ignores more."""
        try:
            told = Path(f"/proc/{self.process.pid}/status").read_text()
        except FileNotFoundError:
            return True
        masks = re.findall(r"^(?:ShdPnd|SigIgn):\s+([0-9a-f]+)$", told, re.MULTILINE)
        return any(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks)


def hold(project: Path, cluster: Cluster, driver: Driver, stage: str, state: Path) -> Held:
    """Stop the training of a stage, once its present attempt has kept a state."""
    found: list[psutil.Process] = []

    def kept_its_own() -> bool:
        if not (found and found[0].is_running()):
            found[:] = processes_of(project, f"pipeline_steps.{stage}")[-1:]
        return bool(found) and state.is_file() and state.stat().st_mtime > found[0].create_time()

    cluster.wait(lambda: kept_its_own() or driver.process.poll() is not None, "a state kept", every=0.05)
    assert driver.process.poll() is None, driver.output()[-3000:]
    found[0].suspend()
    cluster.wait(lambda: found[0].status() == psutil.STATUS_STOPPED, "stopped: the state is on the disk")
    running = cluster.jobs("RUNNING").items()
    (job,) = [job for job, row in running if row["folder"] == str(project) and f"rule_{stage}_job" in row["comment"]]
    return Held(job, found[0])


def processes_of(project: Path, word: str) -> list[psutil.Process]:
    """The processes of a project, oldest first, that `python` runs with this word among its arguments."""
    found = []
    for client in psutil.process_iter(["cmdline", "cwd", "create_time"]):
        words = client.info["cmdline"] or []
        if word in words and client.info["cwd"] == str(project) and warm_python().python in words:
            try:
                found.append(psutil.Process(warm_python().worker_of(client.pid)))
            except (FileNotFoundError, psutil.NoSuchProcess):  # not yet, or no more
                continue
    return sorted(found, key=lambda process: process.create_time())
