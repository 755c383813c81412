"""`kill -9` at many moments, states and checkpoints being written among them: the weights are the undisturbed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.unit.paths import REPOSITORY

pytestmark = pytest.mark.usefixtures("warm")

MOMENTS = ["time", "state", "time", "state", "time", "checkpoint", "checkpoint"]
CLOCKS = ("pairs_per_second", "transport/seconds")


def _run(folder: Path, pairs: Path, *kills: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.unit.training.kill_run", "--folder", str(folder)]
    command += ["--pairs", str(pairs), "--kills", *kills]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stderr
    killed: dict[str, int] = json.loads((folder / "killed.json").read_text())
    return killed


@pytest.mark.timeout(900)
def test_a_training_killed_at_many_moments_ends_in_the_weights_of_an_undisturbed_one(
    tmp_path: Path, pairs: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sum(_run(whole, pairs).values()) == 0
    killed = _run(parts, pairs, *MOMENTS)
    assert killed["time"] >= 2, killed
    assert killed["state"] >= 2, killed
    assert killed["checkpoint"] >= 1, killed
    for name in ("open_clip_model.safetensors", "negative_prompt.safetensors"):
        expected, found = load_file(whole / "checkpoint" / name), load_file(parts / "checkpoint" / name)
        assert expected.keys() == found.keys()
        assert all((expected[key] == found[key]).all() for key in expected), name
    rows = [
        [row for row in pq.read_table(folder / "history.parquet").to_pylist() if row["name"] not in CLOCKS]
        for folder in (whole, parts)
    ]
    assert list(map(repr, rows[0])) == list(map(repr, rows[1]))  # to the bit, and NaN equal to itself
    scales = [row["value"] for row in rows[0] if row["name"] == "loss_scale"]
    assert len(set(scales)) > 1  # it moved, so that it had to be kept
    assert {path.name for path in parts.iterdir() if path.name[0] != "."} == {path.name for path in whole.iterdir()}
    assert not list(parts.rglob("*.partial"))
