"""Both phases as wholes, against a composition of the loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import ForgetSetConfig, LearnPromptConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.ncu.objectives import HardestNegative, Unlearning
from pipeline_steps.methods.ncu.transport import masked_plan
from tests.oracles import ncu_losses as oracle
from tests.unit.methods.batches import MIXTURE, batch
from tests.unit.paths import CONFIG

RAW = resolve(read_yaml([CONFIG]))
SCALE = 9.0
FORGET_SET = ForgetSetConfig(
    fraction=0.25, direction="symmetric", softmax="stable", selection="confidence", mixture=MIXTURE
)
LEARN_PROMPT = replace(load_section(RAW, "learn_prompt", LearnPromptConfig), forget_set=FORGET_SET)
UNLEARN = replace(load_section(RAW, "unlearn", UnlearnConfig), forget_set=FORGET_SET)


def _embeddings(rows: int = 12) -> tuple[Embeddings, list[bool]]:
    image, text, negative = (tensor.requires_grad_() for tensor in batch(rows))
    confidence = oracle.clean_confidence(image.tolist(), text.tolist(), SCALE, "symmetric")
    lowest = sorted(range(rows), key=lambda row: confidence[row])[: rows // 4]
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    return Embeddings(image, text, scale, negative), [row in lowest for row in range(rows)]


@pytest.mark.parametrize("relation", ["paper", "official"])
def test_phase_1_is_equation_6_on_the_retained_pairs(relation: str) -> None:
    settings = replace(LEARN_PROMPT, relation=relation, lambda_text=3.0)
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
    _require_the_forget_set(output, forget)


@pytest.mark.parametrize("order", ["paper", "official"])
@pytest.mark.parametrize(("reduction", "over"), [("sum", "all"), ("mean", "all"), ("sum", "retained")])
def test_phase_2_is_equation_12(order: str, reduction: str, over: str) -> None:
    settings = replace(UNLEARN, mix_order=order, loss_reduction=reduction, separation_weight=0.5, separation_over=over)
    embeddings, forget = _embeddings()
    image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
    sim = torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1).detach()
    plan = masked_plan(sim, torch.tensor(forget), settings.transport).plan_NM
    targets = oracle.targets(plan.tolist(), forget, settings.gamma, order)
    expected = oracle.realignment((SCALE * sim).tolist(), *targets, reduction)
    margins = settings.separation
    kept = [row for row in range(len(forget)) if over == "all" or not forget[row]]
    expected += 0.5 * oracle.separation(text[kept].tolist(), negative[kept].tolist(), margins.alpha, margins.beta)
    output = Unlearning(settings)(embeddings)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    output.loss.backward()
    for tensor in (image, text, negative, embeddings.logit_scale):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_phase_1_with_the_plain_l2_distance_has_it_in_place_of_both_terms() -> None:
    settings = replace(LEARN_PROMPT, separation=replace(LEARN_PROMPT.separation, kind="l2"), lambda_text=3.0)
    embeddings, forget = _embeddings()
    image, text, negative = _rows(embeddings, [row for row, forgotten in enumerate(forget) if not forgotten])
    expected = 3.0 * oracle.farthest(text, negative) + oracle.matching(image, text, negative, SCALE)
    output = HardestNegative(settings)(embeddings)
    assert output.loss.item() == pytest.approx(expected, rel=1e-9)
    assert output.terms.keys() == {"separation", "matching"}


def test_phase_1_with_a_matching_bias_shifts_the_logits_of_equation_5() -> None:
    embeddings, forget = _embeddings()
    rows = _rows(embeddings, [row for row, forgotten in enumerate(forget) if not forgotten])
    found = [HardestNegative(replace(LEARN_PROMPT, matching_bias=bias))(embeddings).terms for bias in (0.0, -10.0)]
    for terms, bias in zip(found, (0.0, -10.0), strict=True):
        assert float(terms["matching"]) == pytest.approx(oracle.matching(*rows, SCALE, bias), rel=1e-9)


def test_phase_2_with_the_plain_l2_distance_has_it_in_place_of_the_interval() -> None:
    embeddings, _ = _embeddings()
    text, negative = embeddings.text_ND.tolist(), embeddings.negatives().tolist()
    interval = Unlearning(UNLEARN)(embeddings)
    plain = Unlearning(replace(UNLEARN, separation=replace(UNLEARN.separation, kind="l2")))(embeddings)
    assert float(plain.terms["separation"]) == pytest.approx(oracle.farthest(text, negative))
    assert float(plain.terms["realignment"]) == float(interval.terms["realignment"])
    rest = [output.loss.item() - float(output.terms["separation"]) for output in (plain, interval)]
    assert rest[0] == pytest.approx(rest[1])


def test_phase_2_without_temperature_has_the_cosines_as_logits() -> None:
    embeddings, forget = _embeddings()
    sim = _similarities(embeddings)
    settings = replace(UNLEARN, temperature="none", separation_weight=0.0)
    plan = masked_plan(sim, torch.tensor(forget), settings.transport).plan_NM
    targets = oracle.targets(plan.tolist(), forget, settings.gamma, settings.mix_order)
    output = Unlearning(settings)(embeddings)
    assert output.loss.item() == pytest.approx(oracle.realignment(sim.tolist(), *targets, "mean"), rel=1e-5)
    assert output.loss.item() != pytest.approx(
        Unlearning(replace(settings, temperature="logit_scale"))(embeddings).loss.item(), rel=1e-2
    )
    output.loss.backward()
    assert embeddings.logit_scale.grad is None


def test_phase_2_with_the_official_text_to_image_target_leaves_it_as_mixed() -> None:
    embeddings, forget = _embeddings()
    sim = _similarities(embeddings)
    settings = replace(UNLEARN, text_to_image_target="official", separation_weight=0.0)
    plan = masked_plan(sim, torch.tensor(forget), settings.transport).plan_NM
    targets = oracle.targets(plan.tolist(), forget, settings.gamma, settings.mix_order, "official")
    expected = oracle.realignment((SCALE * sim).tolist(), *targets, "mean")
    assert Unlearning(settings)(embeddings).loss.item() == pytest.approx(expected, rel=1e-5)


def test_phase_2_with_two_solves_takes_the_second_plan_for_text_to_image() -> None:
    """Stopped early, so that the two plans differ, as they do in the official code."""
    embeddings, forget = _embeddings()
    sim = _similarities(embeddings)
    rough = replace(UNLEARN.transport, solves="two", stopping="potentials", max_iterations=2, tolerance=1e-9)
    settings = replace(UNLEARN, transport=rough, separation_weight=0.0)
    plan = masked_plan(sim, torch.tensor(forget), rough)
    assert plan.plan_MN is not None
    first, _ = oracle.targets(plan.plan_NM.tolist(), forget, settings.gamma, "official")
    _, second = oracle.targets(plan.plan_MN.T.tolist(), forget, settings.gamma, "official")
    expected = oracle.realignment((SCALE * sim).tolist(), first, second, "mean")
    found = Unlearning(settings)(embeddings).loss.item()
    assert found == pytest.approx(expected, rel=1e-6)
    one = Unlearning(replace(settings, transport=replace(rough, solves="one")))(embeddings).loss.item()
    assert found != pytest.approx(one, rel=1e-7)


def test_false_negatives_only_uses_no_forget_set_and_no_negative_in_equation_11() -> None:
    embeddings, _ = _embeddings()
    settings = replace(UNLEARN, realign="false_negatives", separation_weight=0.0)
    sim = _similarities(embeddings)[:, :-1]
    nobody = torch.zeros(12, dtype=torch.bool)
    plan = masked_plan(torch.cat([sim, sim.new_ones(12, 1)], dim=1), nobody, settings.transport).plan_NM[:, :12]
    assert torch.allclose(plan.sum(dim=0), torch.full((12,), 1 / 12, dtype=plan.dtype), rtol=1e-4)
    assert (plan > 0).all()
    mixed = [settings.gamma * rows / rows.sum(dim=1, keepdim=True) for rows in (plan, plan.T)]
    targets = [(rows + (1 - settings.gamma) * torch.eye(12)).tolist() for rows in mixed]
    output = Unlearning(settings)(embeddings)
    expected = oracle.realignment((SCALE * sim).tolist(), targets[0], targets[1], "mean")
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.forget_N is None
    assert output.confidence_N is None
    assert "transport/forget_mass_on_negative" not in output.terms
    output.loss.backward()
    gradient = embeddings.negatives().grad
    assert gradient is None or not gradient.any()


def test_false_positives_only_has_one_hot_targets_on_the_retained_rows() -> None:
    embeddings, forget = _embeddings()
    settings = replace(UNLEARN, realign="false_positives", separation_weight=0.0)
    sim, gamma = _similarities(embeddings), settings.gamma
    plan = masked_plan(sim, torch.tensor(forget), settings.transport).plan_NM
    image_to_text, text_to_image = oracle.targets(plan.tolist(), forget, gamma, "official")
    for row in range(12):
        if not forget[row]:
            image_to_text[row] = [float(column == row) for column in range(13)]
            text_to_image[row] = [float(column == row) for column in range(12)]
    output = Unlearning(settings)(embeddings)
    expected = oracle.realignment((SCALE * sim).tolist(), image_to_text, text_to_image, "mean")
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    _require_the_forget_set(output, forget)


def test_the_mass_of_a_forget_row_on_its_negative_is_reported_and_is_about_one_over_their_number() -> None:
    embeddings, forget = _embeddings(rows=64)
    output = Unlearning(UNLEARN)(embeddings)
    share = float(output.terms["transport/forget_mass_on_negative"])
    assert share == pytest.approx(1 / sum(forget), rel=0.1)
    _require_the_forget_set(output, forget)


@pytest.mark.parametrize("phase", [HardestNegative(LEARN_PROMPT), Unlearning(UNLEARN)])
def test_a_random_forget_set_follows_the_seed_of_the_step(phase: HardestNegative | Unlearning) -> None:
    random = type(phase)(replace(phase._settings, forget_set=replace(FORGET_SET, selection="random")))  # type: ignore[arg-type]
    embeddings, forget = _embeddings()
    seeded = dataclasses.replace(embeddings, step_seed=5)
    drawn, other = random(embeddings).forget_N, random(seeded).forget_N
    assert drawn is not None
    assert other is not None
    assert int(drawn.sum()) == int(other.sum()) == sum(forget)
    assert not torch.equal(drawn, other)
    assert torch.equal(other, random(seeded).forget_N)  # type: ignore[arg-type]


def _require_the_forget_set(output: LossOutput, forget: list[bool]) -> None:
    assert output.forget_N is not None
    assert output.confidence_N is not None
    assert output.forget_N.tolist() == forget
    assert output.confidence_N[output.forget_N].max() <= output.confidence_N[~output.forget_N].min()


def _rows(embeddings: Embeddings, rows: list[int]) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    return (
        embeddings.image_ND[rows].tolist(),
        embeddings.text_ND[rows].tolist(),
        embeddings.negatives()[rows].tolist(),
    )


def _similarities(embeddings: Embeddings) -> torch.Tensor:
    image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
    return torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1).detach()
