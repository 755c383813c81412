"""AdamW with its parameter groups."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pipeline_steps.core.schema import TrainingConfig


def build_optimizer(
    model: nn.Module,
    settings: TrainingConfig,
    prompt: nn.Parameter | None = None,
    prompt_lr: float = 0.0,
    prompt_weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW over the parameters that train; weight decay by dimension: only tensors with two or more axes decay.

    (The official code excludes by name and misses norm1 and norm2.) A prompt is a group of its own. The peak
    learning rate of each group is kept under `peak_lr`.
    """
    matrices, vectors = split_by_dimension(model.parameters())
    groups = [
        {"params": matrices, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": vectors, "lr": settings.lr, "weight_decay": 0.0},
    ]
    if prompt is not None:
        groups.append({"params": [prompt], "lr": prompt_lr, "weight_decay": prompt_weight_decay})
    used = [group | {"peak_lr": group["lr"]} for group in groups if group["params"]]
    return torch.optim.AdamW(used, betas=(settings.beta1, settings.beta2), eps=settings.adam_epsilon)


def split_by_dimension(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters with two or more axes, and those with fewer (biases, norms, logit_scale)."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [p for p in trainable if p.ndim >= 2], [p for p in trainable if p.ndim < 2]


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Every tensor that the optimiser updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
