"""The step by its command line: what is clean, whose neighbours they are, and what of the truth the report tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline_steps.build_memory_bank import STEP
from pipeline_steps.core.config import load_config, settings_json
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.bank import read_bank
from pipeline_steps.models.clip import create_clip, save_clip
from tests.unit.step_runs import runs_of
from tests.unit.training import tiny
from tests.unit.training.conftest import pairs  # noqa: F401 - the same manifest


@pytest.fixture
def options(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:  # noqa: F811
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    torch.manual_seed(0)
    save_clip(tmp_path / "reference", create_clip(tiny.architecture(tmp_path)))
    return ["--pairs", str(pairs), "--reference", str(tmp_path / "reference"), "--method", "npc"]


def _run(folder: Path, options: list[str], **bank: object) -> int:
    settings = json.loads(settings_json(load_config(tiny.RAW), "experiment", *STEP.sections))
    settings |= {"experiment": "test", "results_dir": str(folder / "results")}
    settings["build_memory_bank"] |= {"batch_size": 10, "clean_threshold": 0.5, **bank}
    outputs = ["--bank", str(folder / "bank.parquet"), "--report", str(folder / "report.json")]
    return STEP.main([*options, *outputs, "--settings", json.dumps(settings)])


def test_every_pair_has_two_other_clean_ones(tmp_path: Path, options: list[str]) -> None:
    assert _run(tmp_path, options) == 0
    table, report = pq.read_table(tmp_path / "bank.parquet"), json.loads((tmp_path / "report.json").read_text())
    clean = table["clean_probability"].to_numpy() > 0.5
    neighbours = read_bank(tmp_path / "bank.parquet", 20)
    assert clean[neighbours].all()
    assert (neighbours != np.arange(20)[:, None]).all()
    assert (report["pairs"], report["clean"]) == (20, clean.sum())
    for side, rows in zip(("image", "text"), neighbours.T, strict=True):
        assert report[f"{side}_distinct_neighbours"] == len(set(rows.tolist()))
        assert report[f"{side}_most_often"] == max(np.bincount(rows))
    assert report["forget_set/base_rate"] == 0.25
    assert 0 <= report["forget_set/auroc"] <= 1
    (run,) = runs_of("build_memory_bank")
    assert run.metrics["clean"] == clean.sum()


def test_it_is_the_same_again_from_the_cache(tmp_path: Path, options: list[str]) -> None:
    assert _run(tmp_path, options) == 0
    first = pq.read_table(tmp_path / "bank.parquet")
    assert _run(tmp_path, options) == 0
    assert pq.read_table(tmp_path / "bank.parquet").equals(first)


def test_a_lower_threshold_takes_more_pairs_for_clean(tmp_path: Path, options: list[str]) -> None:
    found = {}
    for threshold in (0.01, 0.9):
        assert _run(tmp_path, options, clean_threshold=threshold) == 0
        found[threshold] = json.loads((tmp_path / "report.json").read_text())["clean"]
    assert found[0.01] > found[0.9]


def test_a_bank_of_other_pairs_is_refused(tmp_path: Path, options: list[str]) -> None:
    assert _run(tmp_path, options, pairs=12) == 0
    assert read_bank(tmp_path / "bank.parquet", 12).shape == (12, 2)
    with pytest.raises(PipelineError, match=r"is a bank of 12 pairs .* and 20 pairs are trained on"):
        read_bank(tmp_path / "bank.parquet", 20)
    with pytest.raises(PipelineError, match="cannot be read"):
        read_bank(tmp_path / "report.json", 20)
