"""One, two and four real processes train alike, and so do chunks of a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.training.distributed import Processes, share_batch_statistics
from tests.unit.paths import REPOSITORY
from tests.unit.training import tiny

pytestmark = pytest.mark.usefixtures("warm")

Result = dict[str, Any]


def _run(folder: Path, *groups: str, gpus: str = "") -> dict[str, Result]:
    command = [sys.executable, "-m", "tests.unit.training.distributed_run", "--folder", str(folder)]
    command += ["--groups", *groups] if groups else []
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": str(REPOSITORY)}
    environment = {**os.environ, **own}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    return _run(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("processes", ["two", "two_in_chunks", "four", "two_machines_of_two"])
def test_processes_give_the_losses_gradients_and_weights_of_one(results: dict[str, Result], processes: str) -> None:
    found, alone, nudged = results[processes], results["alone"], results["nudged"]
    for kind in ("losses", "gradients", "moved"):
        allowed = tiny.any_order(tiny.difference(nudged[kind], alone[kind]))
        assert allowed < 1e-2  # of every tensor
        assert tiny.difference(found[kind], alone[kind]) <= allowed, kind


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs two GPUs on this machine")
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", "one", gpus="0")["alone"], _run(tmp_path / "two", "two", gpus="0,1")["two"]
    assert tiny.difference(two["losses"], one["losses"]) < 1e-4


def test_the_official_gather_leaves_half_the_gradient_in_two_processes(results: dict[str, Result]) -> None:
    alone, nudged = results["alone"]["gradients"], results["nudged"]["gradients"]
    expected = {name: one if name == "logit_scale" else one / 2 for name, one in alone.items()}
    found = results["two_official"]["gradients"]
    assert tiny.difference(found, expected) <= tiny.any_order(tiny.difference(nudged, alone))


def test_shared_batch_statistics_keep_every_activation() -> None:
    module = BatchNormAct2d(4, act_layer=torch.nn.SiLU).eval()
    model, images = torch.nn.Sequential(module), torch.randn(2, 4, 3, 3)
    expected = model(images)
    share_batch_statistics(model, Processes(0, 2, torch.device("cpu")))
    assert model[0] is module
    convert_sync_batchnorm(model)
    assert model[0] is not module
    torch.testing.assert_close(model.eval()(images), expected)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    processes = Processes(1, 3, torch.device("cpu"))
    assert processes.share(12) == slice(4, 8)
    with pytest.raises(PipelineError, match=r"batch_size = 16 cannot be shared evenly by 3 processes"):
        processes.share(16)
