"""The step by its command line: two processes train as one, and a training told to end goes on to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline_steps.core.config import load_config, settings_json
from pipeline_steps.models.clip import create_clip, save_clip
from pipeline_steps.train_npc import STEP
from tests.unit.paths import REPOSITORY
from tests.unit.training import tiny
from tests.unit.training.conftest import pairs  # noqa: F401 - the same manifest

pytestmark = pytest.mark.usefixtures("warm")

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def options(tmp_path: Path, pairs: Path) -> list[str]:  # noqa: F811
    torch.manual_seed(0)
    save_clip(tmp_path / "reference", create_clip(tiny.architecture(tmp_path)))
    bank = {"image_neighbour": [(row + 7) % 20 for row in range(20)], "text_neighbour": [19 - row for row in range(20)]}
    pq.write_table(pa.table(bank), tmp_path / "bank.parquet")
    settings = json.loads(settings_json(load_config(tiny.RAW), "experiment", *STEP.sections))
    settings |= {"experiment": "test", "model": {"architecture": tiny.architecture(tmp_path)}}
    settings["train_npc"] |= {"siamese": "official"}  # whose moments a resume must keep
    settings["train_npc"]["training"] |= {"epochs": 4, "batch_size": 8, "adam_epsilon": 1e-3, "save_minutes": 1000}
    settings["train_npc"]["training"]["freeze"]["text_blocks"] = 0
    inputs = [f"{tmp_path}/{name}" for name in ("reference", "bank.parquet")]
    return [
        "--pairs", str(pairs), "--reference", inputs[0], "--bank", inputs[1], "--settings", json.dumps(settings),
        "--method", "npc", "--threads", "1",
    ]  # fmt: skip


def _train(folder: Path, options: list[str], processes: int = 1, *, warn_at: Path | None = None) -> None:
    """Run the step, alone and undisturbed in this process; as soon as a file is there, send SIGTERM."""
    folder.mkdir(exist_ok=True)
    outputs = ["--checkpoint", str(folder / "checkpoint"), "--history", str(folder / "history.parquet")]
    if processes == 1 and not warn_at:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PIPELINE_RESULTS_DIR", str(folder))
            assert STEP.main([*options, *outputs]) == 0
        return
    started = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [
        sys.executable,
        "-m",
        *(started if processes > 1 else []),
        "pipeline_steps.train_npc",
        *options,
        *outputs,
    ]
    environment = {**os.environ, "PIPELINE_RESULTS_DIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as ran:
        while warn_at and ran.poll() is None and not warn_at.exists():
            time.sleep(0.005)
        if warn_at:
            ran.send_signal(signal.SIGTERM)
        _, told = ran.communicate(timeout=500)
    assert ran.returncode == (143 if warn_at else 0), told


def test_two_processes_train_as_one(tmp_path: Path, options: list[str]) -> None:
    for processes in (1, 2):
        _train(tmp_path / str(processes), options, processes)
    one, two = (load_file(tmp_path / name / "checkpoint" / WEIGHTS) for name in "12")
    # lr d / epsilon in each of eight steps, with lr 2e-4 and d = 7e-7 (see test_train_baseline): 1.1e-6
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=2e-6, atol=1.1e-6, msg=name)
    names = set(pq.read_table(tmp_path / "1" / "history.parquet")["name"].to_pylist())
    assert {"loss/batch", "loss/bank", "npc/weight", "npc/ratio", "forget_set/epoch_auroc"} <= names


def test_a_training_told_to_end_goes_on_to_the_weights_of_an_undisturbed_one(
    tmp_path: Path, options: list[str]
) -> None:
    _train(tmp_path / "whole", options)
    place = options.index("--settings") + 1
    settings = json.loads(options[place])
    settings["train_npc"]["training"]["workers"] = 1  # which changes nothing
    with_worker = [*options[:place], json.dumps(settings), *options[place + 1 :]]
    _train(tmp_path / "parts", with_worker, warn_at=tmp_path / "parts" / "checkpoint.resume.npc.pt")
    _train(tmp_path / "parts", with_worker)
    whole, parts = (load_file(tmp_path / name / "checkpoint" / WEIGHTS) for name in ("whole", "parts"))
    assert all(bool((parts[name] == tensor).all()) for name, tensor in whole.items())
