from __future__ import annotations

import torch
from torch import nn

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.training.optimizer import build_optimizer
from tests.unit.paths import CONFIG


def test_only_matrices_decay_frozen_tensors_stay_out_and_the_prompt_is_its_own_group() -> None:
    settings = load_section(resolve(read_yaml([CONFIG])), "learn_prompt.training", TrainingConfig)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad = False
    prompt = nn.Parameter(torch.zeros(8, 4))
    optimizer = build_optimizer(model, settings, prompt, prompt_lr=3e-4, prompt_weight_decay=0.1)
    matrices, vectors, prompts = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 3)]
    assert matrices["weight_decay"] == settings.weight_decay
    assert sorted(tuple(p.shape) for p in vectors["params"]) == [(2,), (4,), (4,), (4,)]
    assert vectors["weight_decay"] == 0
    assert prompts["params"][0] is prompt
    assert (prompts["peak_lr"], prompts["weight_decay"]) == (3e-4, 0.1)
