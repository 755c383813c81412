"""The GPU benchmark runs as it stands, on a CPU, with a model small enough for that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_step

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny_vit.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return str(path)


def test_a_line_for_every_phase_and_step(model: str, tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    gpu_step.main(
        ["--models", model, "--batch", "16", "--chunks", "0", "8", "--steps", "1", "--warmup", "1", "--device", "cpu"]
        + ["--product-size", "64", "--peak", "1", "--out", str(out)]
    )
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if line and line[0] == model]
    assert [row[1:4] for row in rows] == [
        [phase, step, chunk]
        for phase in ("learn_prompt", "unlearn")
        for step, chunk in (("ours", "16"), ("ours", "8"), ("plain", "16"))
    ]
    assert all(float(row[4].replace(",", "")) > 0 for row in rows)
    assert [row[10] != "-" for row in rows] == [False, False, False, True, True, False]


def test_both_steps_start_from_the_same_loss(model: str) -> None:
    """Phase 2 in bf16 towers: the plain step's plan has converged less, its loss is nearly the same."""
    given = gpu_step.Given(16, 1, 0, torch.device("cpu"), None, 1.0)
    losses = [gpu_step.prepared(gpu_step.Case(model, "unlearn", ours, None), given)()["loss"] for ours in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_operations_count_a_frozen_image_tower_once(model: str) -> None:
    given = gpu_step.Given(16, 1, 0, torch.device("cpu"), None, 1.0)
    prompt, unlearn = (
        gpu_step.operations(gpu_step.Case(model, phase, True, None), given) for phase in ("learn_prompt", "unlearn")
    )
    assert 0 < prompt < unlearn
    assert gpu_step.operations(gpu_step.Case(model, "unlearn", True, 8), given) == unlearn
