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
