"""The step by its command line, alone and under torchrun: one MLflow run, one checkpoint, the same weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_steps.core.config import load_config, settings_json
from pipeline_steps.data.pairs import EpochBatches
from pipeline_steps.models.clip import create_clip, save_clip
from pipeline_steps.train_baseline import STEP
from tests.support.warm_python import warm_python
from tests.unit.paths import REPOSITORY
from tests.unit.step_runs import runs_of
from tests.unit.training import tiny
from tests.unit.training.conftest import pairs  # noqa: F401 - the same manifest

pytestmark = pytest.mark.usefixtures("warm")

PHASES = ("learn_prompt", "unlearn")


EPOCHS = 5  # enough for a signal to arrive before the end


@pytest.fixture
def options(tmp_path: Path, pairs: Path) -> list[str]:  # noqa: F811
    torch.manual_seed(0)
    save_clip(tmp_path / "reference", create_clip(tiny.architecture(tmp_path)))
    settings = json.loads(settings_json(load_config(tiny.RAW), "experiment", *STEP.sections))
    settings |= {"experiment": "test", "model": {"architecture": tiny.architecture(tmp_path)}}
    for phase in PHASES:
        settings[phase]["training"] |= {"epochs": 1, "batch_size": 8, "adam_epsilon": 1e-4, "selection": "validation"}
        settings[phase]["training"]["freeze"]["text_blocks"] = 0
    return ["--pairs", str(pairs), "--reference", str(tmp_path / "reference"), "--settings", json.dumps(settings)]


def _train(
    folder: Path,
    options: list[str],
    processes: int,
    *,
    fails: bool = False,
    kill_at: Path | None = None,
    warn_at: Path | None = None,
) -> str:
    """Run the step; as soon as a file is there, kill its second process (`kill_at`) or send SIGTERM (`warn_at`)."""
    started = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(started if processes > 1 else []), "pipeline_steps.train_baseline", *options]
    command += ["--method", "continued", "--checkpoint", str(folder / "checkpoint")]
    command += ["--history", str(folder / "history.parquet"), "--log-file", str(folder / "log.txt"), "--threads", "1"]
    environment = {**os.environ, "PIPELINE_RESULTS_DIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as ran:
        moment = kill_at or warn_at
        while moment and ran.poll() is None and not moment.exists():
            time.sleep(0.005)
        if warn_at:
            ran.send_signal(signal.SIGTERM)  # to all that it started too, as Slurm does it
        if kill_at:
            started = psutil.Process(warm_python().worker_of(ran.pid)).children()
            (second,) = [one for one in started if one.environ().get("RANK") == "1"]
            second.kill()
        _, told = ran.communicate(timeout=500)
    assert (ran.returncode != 0) == fails, told
    return told


def _alone(folder: Path, options: list[str]) -> None:
    """The same in this process, where nothing disturbs it."""
    outputs = ["--checkpoint", f"{folder}/checkpoint", "--history", f"{folder}/history.parquet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_RESULTS_DIR", str(folder))
        given = [*options, *outputs, "--method", "continued", "--log-file", f"{folder}/log.txt", "--threads", "1"]
        assert STEP.main(given) == 0


def _statuses(folder: Path) -> list[str]:
    """How the runs ended, the latest first."""
    return [run.status for run in reversed(runs_of("train_baseline", results=folder))]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "open_clip_model.safetensors")


@pytest.fixture
def longer(options: list[str]) -> list[str]:
    """A training that lasts until a signal arrives, and keeps no state before that but its first."""
    return _with_training(options, epochs=EPOCHS, save_minutes=1000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Where trainings of one and of two processes end, once they were made."""
    return {}


def _undisturbed(known: dict[int, Path], folder: Path, longer: list[str], processes: int) -> Path:
    if processes not in known:
        known[processes] = folder / f"whole{processes}"
        known[processes].mkdir()
        if processes == 1:
            _alone(known[processes], longer)
        else:
            _train(known[processes], longer, processes)
    return known[processes]


def test_two_processes_write_the_checkpoint_of_one_and_count_as_one_run(
    tmp_path: Path, longer: list[str], undisturbed: dict[int, Path]
) -> None:
    folders = [_undisturbed(undisturbed, tmp_path, longer, processes) for processes in (1, 2)]
    for folder in folders:
        assert _statuses(folder) == ["FINISHED"]
        assert "as_unlearn trains" in (folder / "log.txt").read_text()
        history = pq.read_table(folder / "history.parquet").to_pylist()
        assert sum(row["name"] == "validation/recall_at_1" for row in history) == 2 * EPOCHS
    one, two = map(_weights, folders)
    # Where a gradient is off by d, a step of Adam is by lr d / epsilon. A gradient of length 1, to which it is clipped,
    # summed in another order is off by 7e-7 (tiny.any_order): with lr 2e-4, in twenty steps, 3e-5.
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=2e-6, atol=3e-5, msg=name)
    assert sorted(path.name for path in folders[1].glob("*.pt")) == []


def test_an_error_in_every_process_ends_all_and_fails_the_run_once(tmp_path: Path, options: list[str]) -> None:
    weights = tmp_path / "reference" / "open_clip_model.safetensors"
    tensors = load_file(weights)
    tensors["logit_scale"] = torch.tensor(3e38)  # finite, and its exponential is not
    save_file(tensors, weights)
    told = _train(tmp_path, options, 2, fails=True)
    assert "the loss is nan" in told or "the loss is inf" in told
    assert _statuses(tmp_path) == ["FAILED"]
    assert not (tmp_path / "checkpoint").exists()


def test_a_picture_that_only_one_process_misses_is_named_in_that_process_log(
    tmp_path: Path, options: list[str]
) -> None:
    order = next(iter(EpochBatches(20, 8, 0, epochs=1))).rows
    (tmp_path / f"{order[-1]}.png").unlink()
    _train(tmp_path, _with_training(options, workers=1), 2, fails=True)  # whose loader's process ignores SIGTERM
    assert f"{order[-1]}.png cannot be read" in (tmp_path / "log.txt.rank1").read_text()
    assert "log.txt.rank" in (tmp_path / "log.txt").read_text()
    assert _statuses(tmp_path) == ["FAILED"] or _statuses(tmp_path) == ["KILLED"]


def _with_training(options: list[str], **changed: object) -> list[str]:
    place = options.index("--settings") + 1
    settings = json.loads(options[place])
    for phase in PHASES:
        settings[phase]["training"] |= changed
    return [*options[:place], json.dumps(settings), *options[place + 1 :]]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_told_to_end_keeps_its_state_and_the_next_run_goes_on(
    tmp_path: Path, longer: list[str], undisturbed: dict[int, Path], processes: int
) -> None:
    whole, parts = _undisturbed(undisturbed, tmp_path, longer, processes), tmp_path / "parts"
    parts.mkdir()
    with_worker = _with_training(longer, workers=1)
    state = parts / "checkpoint.resume.as_learn_prompt.pt"
    _train(parts, with_worker, processes, fails=True, warn_at=state)
    told = (parts / "log.txt").read_text()
    kept = re.search(r"continued as_(\w+) is kept after step (\d+)", told)
    assert kept, told
    assert "put job" not in told  # no Slurm here
    if processes == 1:
        _alone(parts, with_worker)
    else:
        _train(parts, with_worker, processes)
    told = (parts / "log.txt").read_text()
    assert f"continued as_{kept[1]} goes on after step {kept[2]}\n" in told, told
    one, two = map(_weights, (whole, parts))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    assert sorted(_statuses(parts)) == ["FINISHED", "KILLED"]
    assert not list(parts.glob("*.pt"))


def test_a_process_killed_among_two_ends_both_and_the_next_run_goes_on(
    tmp_path: Path, longer: list[str], undisturbed: dict[int, Path]
) -> None:
    whole, parts = _undisturbed(undisturbed, tmp_path, longer, 2), tmp_path / "parts"
    parts.mkdir()
    often = _with_training(longer, save_minutes=0, workers=1)
    _train(parts, often, 2, fails=True, kill_at=parts / "checkpoint.resume.as_learn_prompt.pt")
    _train(parts, often, 2)
    one, two = map(_weights, (whole, parts))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    assert sorted(_statuses(parts)) in (["FAILED", "FINISHED"], ["FINISHED", "KILLED"])
