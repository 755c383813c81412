"""One, two and four real processes train alike, and so do chunks of a batch."""

from __future__ import annotations

import os
import socket
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

Result = dict[str, Any]


def _environment(gpus: str = "") -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": str(REPOSITORY)}
    return {**os.environ, **own}


def _run(folder: Path, processes: int, *options: str, gpus: str = "") -> Result:
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    module = ["tests.unit.training.distributed_run", "--folder", str(folder), *options]
    command = [sys.executable, *(started if processes > 1 else ["-m"]), *module]
    ran = subprocess.run(command, cwd=REPOSITORY, env=_environment(gpus), capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr
    result: Result = torch.load(folder / "result.pt", weights_only=True)
    return result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return _run(tmp_path_factory.mktemp("alone"), 1)


def _assert_same(found: Result, expected: Result) -> None:
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(expected["losses"]), rtol=1e-5, atol=1e-5)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for kind in ("gradients", "weights"):
        for name, tensor in expected[kind].items():
            torch.testing.assert_close(found[kind][name], tensor, rtol=1e-5, atol=1e-5, msg=f"{kind} of {name} differ")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_loss_gradients_and_weights_of_one(tmp_path: Path, alone: Result, processes: int) -> None:
    _assert_same(_run(tmp_path, processes), alone)


def test_chunks_in_two_processes_give_the_same_too(tmp_path: Path, alone: Result) -> None:
    _assert_same(_run(tmp_path, 2, "--chunk-size", "3"), alone)


def test_two_machines_of_two_processes_give_the_same(tmp_path: Path, alone: Result) -> None:
    """Two launches that meet on loopback, as on two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launches = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(machine),
             "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port),
             "-m", "tests.unit.training.distributed_run", "--folder", str(tmp_path)],
            cwd=REPOSITORY, env=_environment(), stderr=subprocess.PIPE, text=True,
        )
        for machine in range(2)
    ]  # fmt: skip
    told = [launch.communicate(timeout=500)[1] for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], told
    _assert_same(torch.load(tmp_path / "result.pt", weights_only=True), alone)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs two GPUs on this machine")
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", 1, gpus="0"), _run(tmp_path / "two", 2, gpus="0,1")
    torch.testing.assert_close(torch.tensor(two["losses"]), torch.tensor(one["losses"]), rtol=1e-4, atol=1e-4)


def test_the_official_gather_leaves_half_the_gradient_in_two_processes(tmp_path: Path, alone: Result) -> None:
    found = _run(tmp_path, 2, "--gather", "official", "--steps", "1")
    for name, gradient in alone["gradients"].items():
        expected = gradient if name == "logit_scale" else gradient / 2
        torch.testing.assert_close(found["gradients"][name], expected, rtol=1e-4, atol=1e-6)


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
