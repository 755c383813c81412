"""Both phases as wholes, against a composition of the loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import ForgetSetConfig, LearnPromptConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.ncu.objectives import HardestNegative, Unlearning
from pipeline_steps.methods.ncu.transport import masked_plan
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import batch
from tests.unit.paths import CONFIG

RAW = resolve(read_yaml([CONFIG]))
SCALE = 9.0
FORGET_SET = ForgetSetConfig(fraction=0.25, direction="symmetric")


def _embeddings(rows: int = 12) -> tuple[Embeddings, list[bool]]:
    image, text, negative = (tensor.requires_grad_() for tensor in batch(rows))
    confidence = oracle.clean_confidence(image.tolist(), text.tolist(), SCALE, "symmetric")
    lowest = sorted(range(rows), key=lambda row: confidence[row])[: rows // 4]
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    return Embeddings(image, text, scale, negative), [row in lowest for row in range(rows)]


@pytest.mark.parametrize("relation", ["paper", "official"])
def test_phase_1_is_equation_6_on_the_retained_pairs(relation: str) -> None:
    settings = replace(
        load_section(RAW, "learn_prompt", LearnPromptConfig), relation=relation, forget_set=FORGET_SET, lambda_text=3.0
    )
    embeddings, forget = _embeddings()
    kept = [row for row, forgotten in enumerate(forget) if not forgotten]
    image, text, negative = (
        tensor[kept].tolist() for tensor in (embeddings.image_ND, embeddings.text_ND, embeddings.negatives())
    )
    separation = oracle.separation(text, negative, settings.separation.alpha, settings.separation.beta)
    expected = 3.0 * (separation + oracle.relation(text, negative, relation))
    expected += oracle.matching(image, text, negative, SCALE)
    output = HardestNegative(settings)(embeddings)
    assert output.loss.item() == pytest.approx(expected, rel=1e-9)
    assert output.forget_N is not None
    assert output.forget_N.tolist() == forget


@pytest.mark.parametrize("order", ["paper", "official"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_phase_2_is_equation_12(order: str, reduction: str) -> None:
    settings = replace(
        load_section(RAW, "unlearn", UnlearnConfig), mix_order=order, loss_reduction=reduction, forget_set=FORGET_SET,
        separation_weight=0.5,
    )  # fmt: skip
    embeddings, forget = _embeddings()
    image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
    sim = torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1).detach()
    plan = masked_plan(sim, torch.tensor(forget), settings.transport).plan_NM
    targets = oracle.targets(plan.tolist(), forget, settings.gamma, order)
    expected = oracle.realignment((SCALE * sim).tolist(), *targets, reduction)
    margins = settings.separation
    expected += 0.5 * oracle.separation(text.tolist(), negative.tolist(), margins.alpha, margins.beta)
    output = Unlearning(settings)(embeddings)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    output.loss.backward()
    for tensor in (image, text, negative, embeddings.logit_scale):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
