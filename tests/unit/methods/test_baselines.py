from __future__ import annotations

import pytest
import torch

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import ForgetSetConfig, TrainBaselineConfig
from pipeline_steps.methods import baseline_objective
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.contrastive import contrastive_loss_N
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import batch

SCALE = torch.tensor(6.0, dtype=torch.float64)
SETTINGS = TrainBaselineConfig(
    label_smoothing=0.1, ascent_weight=0.5, forget_set=ForgetSetConfig(fraction=0.25, direction="symmetric")
)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_contrastive_loss_equals_a_plain_loop(smoothing: float) -> None:
    image, text, _ = batch(8)
    found = contrastive_loss_N(image @ text.T, SCALE, smoothing)
    assert found.tolist() == pytest.approx(oracle.contrastive(image.tolist(), text.tolist(), 6.0, smoothing))


def test_the_control_is_the_mean_contrastive_loss() -> None:
    image, text, _ = batch(8)
    output = baseline_objective("continued", SETTINGS)(Embeddings(image, text, SCALE))
    expected = oracle.contrastive(image.tolist(), text.tolist(), 6.0, 0.0)
    assert output.loss.item() == pytest.approx(sum(expected) / 8)
    assert output.forget_N is None


def test_gradient_ascent_descends_on_the_retained_and_ascends_on_the_forget_set() -> None:
    image, text, _ = batch(8)
    output = baseline_objective("gradient_ascent", SETTINGS)(Embeddings(image, text, SCALE))
    assert output.forget_N is not None
    confidence = oracle.clean_confidence(image.tolist(), text.tolist(), 6.0, "symmetric")
    forgotten = sorted(range(8), key=lambda row: confidence[row])[:2]
    assert sorted(output.forget_N.nonzero().flatten().tolist()) == sorted(forgotten)
    smoothed = oracle.contrastive(image.tolist(), text.tolist(), 6.0, 0.1)
    plain = oracle.contrastive(image.tolist(), text.tolist(), 6.0, 0.0)
    retain = sum(smoothed[row] for row in range(8) if row not in forgotten) / 6
    forget = sum(plain[row] for row in forgotten) / 2
    assert output.loss.item() == pytest.approx(retain - 0.5 * forget)


def test_an_unknown_baseline_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match="ncu is not a baseline; allowed: continued, gradient_ascent"):
        baseline_objective("ncu", SETTINGS)
