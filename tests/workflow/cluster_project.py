"""A project on a cluster: its configuration, its copy of the profile, and the Snakemake process that drives it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.workflow.slurm_cluster import Cluster
from tests.workflow.snakemake_runs import workspace

MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CONFIGURATION = """
experiment: cluster
model: {architecture: config/models/vit.json}
train_reference: {training: {batch_size: 64}}
"""
CONFIGFILES = ("config/smoke.yaml", "cluster.yaml")


def cluster_project(folder: Path) -> Path:
    """A workspace with a small vision transformer, whose training any number of processes may share."""
    workspace(folder)
    (folder / "config/models/vit.json").write_text(json.dumps(MODEL))
    (folder / "cluster.yaml").write_text(CONFIGURATION)
    return folder


def adapt_profile(folder: Path, **values: object) -> None:
    """Edit the first block of the profile as a user would, in a copy of it; look at the queue sooner."""
    text = (folder / "workflow/profiles/slurm/config.yaml").read_text()
    for name, value in ({"latency-wait": 20, "slurm-init-seconds-before-status-checks": 2} | values).items():
        text, found = re.subn(rf"^(\s*{name}:) \S+", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1, name
    if (folder / "slurm").is_symlink():
        (folder / "slurm").unlink()
    (folder / "slurm").mkdir(exist_ok=True)
    (folder / "slurm/config.yaml").write_text(text)


class Driver:
    """A running `snakemake --profile slurm`."""

    def __init__(
        self, folder: Path, cluster: Cluster, *arguments: str, configfiles: tuple[str, ...] = CONFIGFILES,
        before: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        command = ["snakemake", *arguments, "--profile", "slurm", "--configfile", *configfiles]
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
