"""Running the project's own Snakefile in a folder of the test's, over the project's own files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipeline_steps.core.config import read_yaml
from tests.support.warm_python import warm_python
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


CLASSES = {"fruit": ["food/fruit"], "office supply": ["office"], "arrow": ["shapes/arrows"], "tool": ["tools"]}
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SMALL = """
model: {architecture: config/models/vit.json}
download_images:
  embedded_parquet: pictures.parquet
  samples_per_shard: 25
  timeout_seconds: 1
  retry_passes: 1
train_reference: {training: {batch_size: 16}}
learn_prompt: {training: {batch_size: 16}}
unlearn: {training: {batch_size: 16}}
"""


def small_project(folder: Path) -> Path:
    """A workspace whose smoke configuration knows 434 of the bundled pictures, of 4 classes.

    Its model is a small vision transformer, whose training any number of processes may share.
    """
    workspace(folder)
    (folder / "config/models/vit.json").write_text(json.dumps(MODEL))
    pictures = pq.read_table(folder / "resources/openclipart/openclipart.parquet")
    chosen = pa.array([category for categories in CLASSES.values() for category in categories])
    pq.write_table(pictures.filter(pc.is_in(pictures["category"], chosen)), folder / "pictures.parquet")
    smoke = folder / "config/smoke.yaml"
    (folder / "small.yaml").write_text(SMALL)
    smoke.write_text(yaml.safe_dump(read_yaml([smoke, folder / "small.yaml"])))
    row = yaml.safe_load((folder / "config/datasets.yaml").read_text())["openclipart"]
    row |= {"n": {"test": 125, "train": None}, "classes": len(CLASSES), "templates": row["templates"][:2]}
    row["sources"] = [row["sources"][0] | {"path": "pictures.parquet", "categories": CLASSES}]
    (folder / "config/datasets.yaml").write_text(yaml.safe_dump({"openclipart": row}, sort_keys=False))
    return folder


def user_environment() -> dict[str, str]:
    """The environment of a user who has activated the virtual environment and set nothing else."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith(PRIVATE)}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"}


def warm_environment(*, tells_mlflow: bool = False) -> dict[str, str]:
    """The same, for a workflow of which only the outcome counts: all that it starts, starts at once."""
    followed = {} if tells_mlflow else {"PIPELINE_RUNS_FOLLOWED": "1"}
    return warm_python().environment(user_environment()) | followed


def snakemake(
    folder: Path, *arguments: str, configfiles: Sequence[str] = ("config/smoke.yaml",), timeout: float = 500,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run snakemake as a user would; stdout and stderr come back together. What starts no job starts at once."""
    environment = dict(environment or user_environment())
    if {"-n", "--dry-run", "--lint"} & set(arguments):
        environment = warm_python().environment(environment)
    command = ["snakemake", *arguments, "--configfile", *configfiles]
    return subprocess.run(
        command, cwd=folder, env=environment, timeout=timeout, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
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
