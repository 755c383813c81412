from __future__ import annotations

import io

import torch
from msgspec.structs import replace
from torch import nn

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.training.optimizer import HalfAdamW, build_optimizer
from tests.unit.paths import CONFIG

SETTINGS = load_section(resolve(read_yaml([CONFIG])), "learn_prompt.training", TrainingConfig)


class TimmLike(nn.Module):
    """Names as in a CLIP whose image tower is timm's and whose text tower is open_clip's."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.ModuleDict({"norm1": nn.LayerNorm(4), "attn": nn.Linear(4, 4), "norm2": nn.LayerNorm(4)})
        self.ln_final = nn.LayerNorm(4)
        self.bn1 = nn.BatchNorm2d(4)
        self.class_embedding = nn.Parameter(torch.zeros(4))
        self.positional_embedding = nn.Parameter(torch.zeros(3, 4))
        self.logit_scale = nn.Parameter(torch.zeros(()))


def test_official_names_miss_norm1_and_norm2_and_decay_the_class_embedding() -> None:
    model = TimmLike()
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for rule in ("matrices", "official_names"):
        decayed, plain = build_optimizer(model, replace(SETTINGS, weight_decay_on=rule)).param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (SETTINGS.weight_decay, 0)
        found[rule] = {names[parameter] for parameter in decayed["params"]}
        assert found[rule] | {names[parameter] for parameter in plain["params"]} == set(names.values())
    assert found["matrices"] == {"visual.attn.weight", "positional_embedding"}
    assert found["official_names"] - found["matrices"] == {
        "visual.norm1.weight",
        "visual.norm2.weight",
        "class_embedding",
    }


def test_decay_by_dimension_keeps_the_models_order_of_tensors() -> None:
    model = TimmLike()
    decayed, plain = (group["params"] for group in build_optimizer(model, SETTINGS).param_groups)
    expected = list(model.parameters())
    for found, keep in ((decayed, lambda p: p.ndim >= 2), (plain, lambda p: p.ndim < 2)):
        wanted = [parameter for parameter in expected if keep(parameter)]
        assert len(found) == len(wanted)
        assert all(one is other for one, other in zip(found, wanted, strict=True))


def test_only_matrices_decay_frozen_tensors_stay_out_and_the_prompt_is_its_own_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad = False
    prompt = nn.Parameter(torch.zeros(8, 4))
    optimizer = build_optimizer(model, SETTINGS, prompt, prompt_lr=3e-4, prompt_weight_decay=0.1)
    matrices, vectors, prompts = optimizer.param_groups
    assert [tuple(p.shape) for p in matrices["params"]] == [(4, 3)]
    assert matrices["weight_decay"] == SETTINGS.weight_decay
    assert sorted(tuple(p.shape) for p in vectors["params"]) == [(2,), (4,), (4,), (4,)]
    assert vectors["weight_decay"] == 0
    assert prompts["params"][0] is prompt
    assert (prompts["peak_lr"], prompts["weight_decay"]) == (3e-4, 0.1)


def test_adam_has_the_epsilon_and_betas_of_the_settings() -> None:
    model = TimmLike()
    moved = []
    for epsilon in (1e-8, 1e-2):
        torch.manual_seed(0)
        settings = replace(SETTINGS, adam_epsilon=epsilon, beta1=0.5, beta2=0.6, weight_decay=0.0)
        optimizer = build_optimizer(model, settings)
        assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.6)}
        before = model.visual["attn"].weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()
        moved.append((model.visual["attn"].weight.detach() - before).abs().mean().item() / SETTINGS.lr)
    assert moved[0] > 0.99
    assert moved[1] < 0.1


def test_all_decays_every_tensor_as_npc_does() -> None:
    model = TimmLike()
    (group,) = build_optimizer(model, replace(SETTINGS, weight_decay_on="all")).param_groups
    assert group["weight_decay"] == SETTINGS.weight_decay
    assert len(group["params"]) == len(list(model.parameters()))


_OPTIONS = {"betas": (0.9, 0.98), "eps": 1e-6, "foreach": False}


def _gradients(steps: int) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    return [1e-4 * torch.randn(20_000, generator=made) for _ in range(steps)]


def _stepped(gradients: list[torch.Tensor], *, cut: int | None = None) -> torch.Tensor:
    """A weight of half precision after these steps; at `cut` the optimiser's state is written and read."""
    weight = nn.Parameter(torch.randn(20_000, generator=torch.Generator().manual_seed(0)).mul(0.02).half().float())
    groups = [{"params": [weight], "lr": 2e-7, "weight_decay": 0.2}]
    optimizer = HalfAdamW(groups, [weight], **_OPTIONS)
    for number, gradient in enumerate(gradients):
        if number == cut:
            stream = io.BytesIO()
            torch.save(optimizer.state_dict(), stream)
            stream.seek(0)
            optimizer = HalfAdamW(groups, [weight], **_OPTIONS)
            optimizer.load_state_dict(torch.load(stream))
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_weights_in_half_step_as_adamw_does_on_float16_parameters_bit_for_bit() -> None:
    """As NPC's official code has it: parameters, gradients and both moments are float16."""
    gradients = _gradients(100)
    plain = nn.Parameter(torch.randn(20_000, generator=torch.Generator().manual_seed(0)).mul(0.02).half())
    before = plain.detach().float()
    optimizer = torch.optim.AdamW([{"params": [plain], "lr": 2e-7, "weight_decay": 0.2}], **_OPTIONS)
    for gradient in gradients:
        plain.grad = gradient.half()
        optimizer.step()
    found = _stepped(gradients)
    assert torch.equal(found, plain.detach().float())
    assert torch.equal(_stepped(gradients, cut=50), found)
    moved = (found - before).abs()
    assert float((moved > 0).float().mean()) > 0.9
    assert float(moved.mean()) > 100 * 2e-7, "updates grow far beyond the rate, where float16 ends"
