"""The benchmark of the objective compares what it says it compares."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import UnlearnConfig
from pipeline_steps.methods.ncu.objectives import Unlearning
from pipeline_steps.methods.ncu.transport import masked_plan
from tests.benchmarks import objective
from tests.benchmarks.batches import MATCHED_COSINE, unit_batch
from tests.benchmarks.textbook import textbook_unlearning
from tests.unit.paths import CONFIG

SETTINGS = load_section(resolve(read_yaml([CONFIG])), "unlearn", UnlearnConfig)
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["structured", "diffuse"])
def test_batches_are_at_the_cosines_they_name(kind: str) -> None:
    batch = unit_batch(400, 512, kind=kind, device=CPU, exchanged=0.25)
    cosine = (batch.image_ND * batch.text_ND).sum(dim=1)
    assert cosine[100:].mean().item() == pytest.approx(MATCHED_COSINE[kind], abs=0.01)
    assert cosine[:100].mean().item() == pytest.approx(0, abs=0.03)
    assert (batch.text_ND * batch.negatives()).sum(dim=1).mean().item() == pytest.approx(-0.5, abs=0.02)


def test_the_textbook_computes_our_loss_and_gradients() -> None:
    batch = unit_batch(64, 32, kind="structured", device=CPU)
    settings = replace(SETTINGS, transport=replace(SETTINGS.transport, tolerance=1e-6, max_iterations=20000))
    leaves = [batch.image_ND, batch.text_ND, batch.negatives(), batch.logit_scale]
    ours = Unlearning(settings)(batch).loss
    textbook, error = textbook_unlearning(batch, settings, iterations=8000)
    assert error < 1e-3
    assert textbook.item() == pytest.approx(ours.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, leaves) for loss in (ours, textbook)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_pots_plan_is_ours() -> None:
    batch = unit_batch(48, 32, kind="structured", device=CPU)
    sim = torch.cat([batch.image_ND @ batch.text_ND.T, (batch.image_ND * batch.negatives()).sum(1, keepdim=True)], 1)
    forget = torch.arange(48) < 5
    settings = replace(SETTINGS.transport, max_iterations=20000)
    ours, pots = masked_plan(sim, forget, settings), objective.pot_plan(sim.detach(), forget, settings)
    assert pots.marginal_error < 1e-4
    torch.testing.assert_close(pots.plan_NM, ours.plan_NM, rtol=1e-2, atol=1e-7)
