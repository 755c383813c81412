"""Running the project's own Snakefile in a folder of the test's, over the project's own files."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.unit.paths import REPOSITORY

PRIVATE = ("MLFLOW_", "PIPELINE_")  # what tests set for themselves
LINKED = ("Snakefile", "workflow", "profiles", "slurm", "pipeline_steps", "resources", "envs")


def workspace(folder: Path) -> Path:
    """A folder in which the project's files appear; configuration and results are the test's own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "config", folder / "config")
    return folder


def user_environment() -> dict[str, str]:
    """The environment of a user who has activated the virtual environment and set nothing else."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith(PRIVATE)}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


@functools.cache
def _server() -> subprocess.Popen[str]:
    """A process that plans; it ends with this one, whose end of its standard input the system closes."""
    command = [sys.executable, "-m", "tests.support.snakemake_server"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _planned(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    server = _server()
    assert server.stdin
    assert server.stdout
    with tempfile.NamedTemporaryFile() as output:
        told = {"arguments": arguments, "folder": str(folder), "output": output.name, "environment": user_environment()}
        print(json.dumps(told), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(["snakemake", *arguments], code, Path(output.name).read_text())


def snakemake(
    folder: Path, *arguments: str, configfiles: Sequence[str] = ("config/smoke.yaml",), timeout: float = 500,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run snakemake as a user would; stdout and stderr come back together. What starts no job is run by `_server`."""
    if {"-n", "--dry-run", "--lint"} & set(arguments):
        return _planned(folder, [*arguments, "--configfile", *configfiles])
    command = ["snakemake", *arguments, "--configfile", *configfiles]
    return subprocess.run(
        command, cwd=folder, env=environment or user_environment(), timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def planned_jobs(folder: Path, *arguments: str, configfiles: Sequence[str] = ("config/smoke.yaml",)) -> dict[str, int]:
    """Job counts by rule of a dry run, without the targets that only collect; the batches of a stage count together."""
    ran = snakemake(folder, *arguments, "--dry-run", "--quiet", "rules", configfiles=configfiles)
    assert ran.returncode == 0, ran.stdout
    tables = ran.stdout.split("Job stats:")
    jobs: Counter[str] = Counter()
    for line in tables[-1].splitlines():
        words = line.split()
        if len(words) == 2 and words[1].isdigit():
            jobs[re.sub(r"_\d+_job$", "_job", words[0])] += int(words[1])
    return {rule: count for rule, count in jobs.items() if rule.endswith("_job") or rule in SINGLE}


SINGLE = ("download_images", "build_manifest", "check_overlap", "make_tables", "compare_experiments")
