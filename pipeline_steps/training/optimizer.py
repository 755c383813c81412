"""AdamW with its parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.models.half import half_weights, round_to_half

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
    On CUDA the update is one fused kernel. With `weight_storage: fp16` the weights that a CLIP in half precision keeps
    in it are rounded to it here, and step in it.
    """
    decayed, plain = split_for_decay(model.named_parameters(), settings.weight_decay_on)
    groups = [
        {"params": decayed, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": plain, "lr": settings.lr, "weight_decay": 0.0},
    ]
    if prompt is not None:
        groups.append({"params": [prompt], "lr": prompt_lr, "weight_decay": prompt_weight_decay})
    used = [group | {"peak_lr": group["lr"]} for group in groups if group["params"]]
    if settings.weight_storage == "fp16":
        round_to_half(model)
        return HalfAdamW(
            used, half_weights(model), betas=(settings.beta1, settings.beta2), eps=settings.adam_epsilon, foreach=False
        )
    on_cuda = all(parameter.is_cuda for parameter in (*decayed, *plain))
    return torch.optim.AdamW(
        used, betas=(settings.beta1, settings.beta2), eps=settings.adam_epsilon, fused=True if on_cuda else None
    )


class HalfAdamW(torch.optim.AdamW):
    """AdamW that steps some of its weights in float16: the weight, its gradient, both moments and all between.

    Between steps these weights are float32 tensors whose values float16 has. A second moment below 6e-8 is 0 there, so
    that such an update is the first moment over epsilon, which may be hundreds of times the learning rate.
    """

    def __init__(self, groups: list[dict[str, Any]], halves: list[nn.Parameter], **options: Any) -> None:
        super().__init__(groups, **options)
        trained = {id(parameter) for parameter in trained_parameters(self)}
        self._halves = [parameter for parameter in halves if id(parameter) in trained]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; the gradients of weights in half precision are gone after it."""
        stepping = [parameter for parameter in self._halves if parameter.grad is not None]
        for parameter in stepping:
            gradient, parameter.grad = parameter.grad.half(), None  # type: ignore[union-attr]
            parameter.data = parameter.data.half()
            parameter.grad = gradient
            state = self.state[parameter]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:  # float32 where they were read from a state that was kept
                    state[name] = state[name].half()
        super().step(closure)
        for parameter in stepping:
            parameter.grad = None
            parameter.data = parameter.data.float()


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
