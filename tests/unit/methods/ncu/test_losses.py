from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline_steps.methods.ncu.losses import (
    farthest_loss,
    matching_loss,
    realignment_loss,
    relation_loss,
    separation_loss,
)
from pipeline_steps.methods.ncu.targets import alignment_targets
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import batch

SCALE = torch.tensor(7.0, dtype=torch.float64)


def test_separation_equals_a_plain_loop_and_is_zero_inside_the_interval() -> None:
    _, text, negative = batch(9)
    expected = oracle.separation(text.tolist(), negative.tolist(), -0.7, -0.2)
    assert separation_loss(text, negative, -0.7, -0.2).item() == pytest.approx(expected, rel=1e-12)
    assert expected > 0
    inside = -0.5 * text + (1 - 0.25) ** 0.5 * _orthogonal(text)
    assert separation_loss(text, inside, -0.7, -0.2).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_relation_equals_a_plain_loop(variant: str) -> None:
    _, text, negative = batch(9)
    expected = oracle.relation(text.tolist(), negative.tolist(), variant)
    assert relation_loss(text, negative, variant).item() == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


def test_relation_variants_differ_and_vanish_on_their_own_symmetry() -> None:
    _, text, negative = batch(9)
    assert relation_loss(text, negative, "paper").item() != pytest.approx(
        relation_loss(text, negative, "official").item(), rel=1e-3
    )
    assert relation_loss(text, -text, "paper").item() == pytest.approx(0, abs=1e-24)
    assert relation_loss(text, -text, "official").item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_matching_equals_a_plain_loop_of_equation_5_with_its_lost_minus(bias: float) -> None:
    image, text, negative = batch(7)
    expected = oracle.matching(image.tolist(), text.tolist(), negative.tolist(), SCALE.item(), bias)
    found = matching_loss(image, text, negative, SCALE, bias)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert found.item() > 0


def test_farthest_is_a_plain_loop_and_zero_only_for_opposite_vectors() -> None:
    _, text, negative = batch(9)
    expected = oracle.farthest(text.tolist(), negative.tolist())
    assert farthest_loss(text, negative).item() == pytest.approx(expected, rel=1e-12)
    assert farthest_loss(text, -text).item() == pytest.approx(0, abs=1e-12)
    same = text.clone().requires_grad_()
    loss = farthest_loss(text, same)
    loss.backward()
    assert loss.item() == 2
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("order", ["paper", "official"])
def test_realignment_equals_a_plain_loop(order: str, reduction: str) -> None:
    logits, plan, forget = _problem()
    targets = alignment_targets(plan, forget, 0.7, order)  # type: ignore[arg-type]
    found = realignment_loss(logits, *targets, reduction)  # type: ignore[arg-type]
    expected_targets = oracle.targets(plan.tolist(), forget.tolist(), 0.7, order)
    expected = oracle.realignment(logits.tolist(), *expected_targets, reduction)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_realignment_is_zero_where_the_softmax_already_is_the_target() -> None:
    logits, _, _ = _problem()
    targets = logits.softmax(dim=1), logits.T.softmax(dim=1)
    assert realignment_loss(logits, *targets, "sum").item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["separation", "farthest", "relation_paper", "relation_official", "matching", "realignment"]
)
def test_gradients_by_finite_differences(name: str) -> None:
    image, text, negative = (tensor.requires_grad_() for tensor in batch(5))
    logits, plan, forget = _problem()
    targets = alignment_targets(plan, forget, 0.7, "official")
    checks = {
        "separation": (lambda t, n: separation_loss(t, n, -0.7, -0.2), (text, negative)),
        "farthest": (farthest_loss, (text, negative)),
        "relation_paper": (lambda t, n: relation_loss(t, n, "paper"), (text, negative)),
        "relation_official": (lambda t, n: relation_loss(t, n, "official"), (text, negative)),
        "matching": (matching_loss, (image, text, negative, SCALE.clone().requires_grad_())),
        "realignment": (lambda x: realignment_loss(x, *targets, "mean"), (logits.requires_grad_(),)),
    }
    function, inputs = checks[name]
    assert torch.autograd.gradcheck(function, inputs)


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    image, text, negative = batch(6)
    logits = SCALE * torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1)
    plan = torch.rand(6, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    forget = torch.tensor([False, True, False, False, True, False])
    return logits, plan / plan.sum(), forget


def _orthogonal(text: Tensor) -> Tensor:
    other = torch.randn(text.shape, generator=torch.Generator().manual_seed(9), dtype=text.dtype)
    other = other - (other * text).sum(dim=1, keepdim=True) * text
    return torch.nn.functional.normalize(other, dim=1)
