from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import ForgetSetConfig, SoftclipConfig, TrainBaselineConfig
from pipeline_steps.methods import baseline_objective
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.contrastive import contrastive_loss_N
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import MIXTURE, batch

SCALE = torch.tensor(6.0, dtype=torch.float64)
SETTINGS = TrainBaselineConfig(
    label_smoothing=0.1,
    ascent_weight=0.5,
    softclip=SoftclipConfig(weight=0.3, temperature=0.1),
    forget_set=ForgetSetConfig(
        fraction=0.25, direction="symmetric", softmax="stable", selection="confidence", mixture=MIXTURE
    ),
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
    forgotten = _require_the_forget_set(output, image, text)
    smoothed = oracle.contrastive(image.tolist(), text.tolist(), 6.0, 0.1)
    plain = oracle.contrastive(image.tolist(), text.tolist(), 6.0, 0.0)
    retain = sum(smoothed[row] for row in range(8) if row not in forgotten) / 6
    forget = sum(plain[row] for row in forgotten) / 2
    assert output.loss.item() == pytest.approx(retain - 0.5 * forget)


def test_filter_continue_is_the_contrastive_loss_among_the_retained_pairs() -> None:
    image, text, _ = (tensor.requires_grad_() for tensor in batch(8))
    output = baseline_objective("filter_continue", SETTINGS)(Embeddings(image, text, SCALE))
    forgotten = _require_the_forget_set(output, image, text)
    kept = [row for row in range(8) if row not in forgotten]
    expected = oracle.contrastive(image[kept].tolist(), text[kept].tolist(), 6.0, 0.0)
    assert output.loss.item() == pytest.approx(sum(expected) / 6)
    output.loss.backward()
    assert image.grad is not None
    assert image.grad[forgotten].abs().sum() == 0
    assert (image.grad[kept].abs().sum(dim=1) > 0).all()


def test_softclip_follows_the_similarities_inside_each_modality() -> None:
    image, text, _ = (tensor.requires_grad_() for tensor in batch(8))
    output = baseline_objective("softclip", SETTINGS)(Embeddings(image, text, SCALE))
    logits = (SCALE * image @ text.T).tolist()
    targets = (oracle.softened(features.tolist(), 0.3, 0.1) for features in (image, text))
    assert output.loss.item() == pytest.approx(oracle.realignment(logits, *targets, "mean"))
    assert output.forget_N is None
    output.loss.backward()
    expected = torch.autograd.grad(_softclip_with_constant_targets(image, text), image)[0]
    assert image.grad is not None
    torch.testing.assert_close(image.grad, expected)


def test_softclip_without_softening_is_the_control() -> None:
    image, text, _ = batch(8)
    hard = replace(SETTINGS, softclip=replace(SETTINGS.softclip, weight=0.0))
    found = baseline_objective("softclip", hard)(Embeddings(image, text, SCALE)).loss
    control = baseline_objective("continued", hard)(Embeddings(image, text, SCALE)).loss
    torch.testing.assert_close(found, control)


@pytest.mark.parametrize("method", ["gradient_ascent", "filter_continue"])
def test_baselines_with_a_forget_set_follow_its_selection(method: str) -> None:
    image, text, _ = batch(8)
    drawn = replace(SETTINGS, forget_set=replace(SETTINGS.forget_set, selection="random"))
    masks = [
        baseline_objective(method, settings)(Embeddings(image, text, SCALE, step_seed=seed)).forget_N
        for settings, seed in ((SETTINGS, 0), (SETTINGS, 1), (drawn, 0), (drawn, 1))
    ]
    by_confidence, again, random, other = (mask.tolist() for mask in masks if mask is not None)
    assert by_confidence == again
    assert random != other
    assert sum(random) == sum(other) == sum(by_confidence) == 2


def test_an_unknown_baseline_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match="ncu is not a baseline; allowed: continued, gradient_ascent"):
        baseline_objective("ncu", SETTINGS)


def _require_the_forget_set(output: LossOutput, image: torch.Tensor, text: torch.Tensor) -> list[int]:
    confidence = oracle.clean_confidence(image.tolist(), text.tolist(), 6.0, "symmetric")
    forgotten = sorted(sorted(range(8), key=lambda row: confidence[row])[:2])
    assert output.forget_N is not None
    assert output.confidence_N is not None
    assert output.forget_N.nonzero().flatten().tolist() == forgotten
    assert output.confidence_N.tolist() == pytest.approx(confidence, rel=1e-5)
    return forgotten


def _softclip_with_constant_targets(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    logits = SCALE * image @ text.T
    total = torch.zeros((), dtype=torch.float64)
    for scores, features in ((logits, image), (logits.T, text)):
        target = torch.tensor(oracle.softened(features.tolist(), 0.3, 0.1), dtype=torch.float64)
        total = total - (target * scores.log_softmax(dim=1)).sum(dim=1).mean() / 2
    return total
