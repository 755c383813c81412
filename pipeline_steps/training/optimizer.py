"""AdamW with its parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from pipeline_steps.core.schema import TrainingConfig

_NO_DECAY_IN_NAME = ("bn", "ln", "bias", "scale")


def build_optimizer(
    model: nn.Module,
    settings: TrainingConfig,
    prompt: nn.Parameter | None = None,
    prompt_lr: float = 0.0,
    prompt_weight_decay: float = 0.0,
) -> torch.optim.AdamW:
    """AdamW over the parameters that train: those that decay, those that do not, and a prompt as its own group.

    `weight_decay_on` chooses as in `split_for_decay`. The peak learning rate of each group is kept under `peak_lr`.
    On CUDA the update is one fused kernel.
    """
    decayed, plain = split_for_decay(model.named_parameters(), settings.weight_decay_on)
    groups = [
        {"params": decayed, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": plain, "lr": settings.lr, "weight_decay": 0.0},
    ]
    if prompt is not None:
        groups.append({"params": [prompt], "lr": prompt_lr, "weight_decay": prompt_weight_decay})
    used = [group | {"peak_lr": group["lr"]} for group in groups if group["params"]]
    on_cuda = all(parameter.is_cuda for parameter in (*decayed, *plain))
    return torch.optim.AdamW(
        used, betas=(settings.beta1, settings.beta2), eps=settings.adam_epsilon, fused=True if on_cuda else None
    )


def split_for_decay(
    named_parameters: Iterable[tuple[str, nn.Parameter]], rule: Literal["matrices", "official_names", "all"]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters with weight decay, and those without, each in the order given.

    `matrices` decays tensors with two or more axes, so no bias, norm or logit scale. `official_names` decays all but
    the names that contain bn, ln, bias or scale, which misses norm1 and norm2 of timm's towers. `all` decays all, as
    NPC's official code does.
    """
    decays: Callable[[str, nn.Parameter], bool] = _RULES[rule]
    trainable = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    decayed = [parameter for name, parameter in trainable if decays(name, parameter)]
    return decayed, [parameter for name, parameter in trainable if not decays(name, parameter)]


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Every tensor that the optimiser updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_matrix(_: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2


def _has_no_official_mark(name: str, _: nn.Parameter) -> bool:
    return not any(mark in name for mark in _NO_DECAY_IN_NAME)


_RULES: dict[str, Callable[[str, nn.Parameter], bool]] = {
    "matrices": _is_matrix, "official_names": _has_no_official_mark, "all": lambda _, __: True,
}  # fmt: skip
