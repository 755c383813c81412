"""A training of two phases on a real manifest, with a real MLflow store: interrupted, resumed, reported."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.record import Run, RunIdentity, read_record, recorded_run
from pipeline_steps.core.schema import FreezeConfig, TrainingConfig
from pipeline_steps.core.step import StepContext
from pipeline_steps.methods.base import Objective
from pipeline_steps.methods.continued import Continued
from pipeline_steps.models.clip import ClipBundle, create_clip, load_clip
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.history import HistoryRow
from pipeline_steps.training.session import PhasePlan, train, train_checkpoint
from tests.unit.paths import CONFIG, REPOSITORY
from tests.unit.training.test_loop import StopError, StopsAt

RAW = resolve(read_yaml([CONFIG]))
PHASES = ("learn_prompt", "unlearn")


def _plans(second: Objective) -> list[PhasePlan]:
    settings = [
        replace(load_section(RAW, f"{phase}.training", TrainingConfig), epochs=2, batch_size=8) for phase in PHASES
    ]
    return [PhasePlan("first", settings[0], Continued()), PhasePlan("second", settings[1], second)]


def _train(folder: Path, pairs: Path, run: Run, second: Objective) -> tuple[ClipBundle, list[HistoryRow]]:
    paths = {"pairs": pairs, "checkpoint": folder / "checkpoint", "history": folder / "history.parquet"}
    context = StepContext(paths, RAW, "continued", 0, 1, run, logging.getLogger("pipeline_steps"))
    torch.manual_seed(0)
    bundle = create_clip(str(REPOSITORY / "config/models/smoke_rn.json"))
    train_checkpoint(context, bundle, _plans(second))
    table = pq.read_table(paths["history"])
    return load_clip(paths["checkpoint"]), list(
        zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    )


def test_two_phases_interrupted_in_the_second_end_as_if_undisturbed(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    identity = RunIdentity("test", "train_baseline", "continued", 0)
    with recorded_run(identity, {}, {}, whole) as run:
        expected, history = _train(whole, pairs, run, Continued())
    with pytest.raises(StopError), recorded_run(identity, {}, {}, parts) as run:
        _train(parts, pairs, run, StopsAt(4))
    assert len(list(parts.glob("*.pt"))) == 2
    with recorded_run(identity, {}, {}, parts) as run:
        resumed, again = _train(parts, pairs, run, Continued())
    assert list(parts.glob("*.pt")) == []
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    losses = [(step, value) for step, _, name, value in history if name == "loss"]
    assert losses == [(step, value) for step, _, name, value in again if name == "loss"]
    assert [step for step, _ in losses] == list(range(8))
    record = read_record(run.folder)
    assert [(step, value) for name, value, _, step in record.points if name == "loss"] == losses
    table = pq.read_table(parts / "history.parquet")
    assert table.column_names == ["step", "epoch", "name", "value"]
    assert table.num_rows == len(again)


def test_more_frozen_blocks_than_there_are_and_a_batch_larger_than_the_data_are_refused(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    bundle = create_clip(str(REPOSITORY / "config/models/smoke_rn.json"))
    paths = {"pairs": pairs, "checkpoint": tmp_path / "c", "history": tmp_path / "h"}
    settings, alone = _plans(Continued())[0].training, Processes(0, 1, torch.device("cpu"))
    with recorded_run(RunIdentity("test", "unlearn", "ncu", 0), {}, {}, tmp_path / "c") as run:
        context = StepContext(paths, RAW, "ncu", 0, 1, run, logging.getLogger("pipeline_steps"))
        frozen = replace(settings, freeze=FreezeConfig(False, False, False, False, False, 9))
        with pytest.raises(PipelineError, match=r"text_blocks = 9; this text tower has 2 blocks"):
            train(context, bundle, [PhasePlan("unlearn", frozen, Continued())], alone)
        with pytest.raises(PipelineError, match=r"batch_size = 21 is larger than the 20 training pairs"):
            train(context, bundle, [PhasePlan("unlearn", replace(settings, batch_size=21), Continued())], alone)
