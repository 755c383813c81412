from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import TrainNpcConfig
from pipeline_steps.methods.npc.weights import BankLosses, impact_ratios, npc_loss, pair_weights
from tests.oracles import npc as oracle
from tests.unit.training.tiny import RAW

NPC = load_section(RAW, "train_npc", TrainNpcConfig)


def _losses(seed: int) -> torch.Tensor:
    return torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def _bank(seed: int) -> BankLosses:
    return BankLosses(_losses(seed), _losses(seed + 1))


def test_weights_equal_a_plain_loop() -> None:
    before, after = _bank(1), _bank(5)
    found = pair_weights(impact_ratios(before, after))
    expected = [
        oracle.weight((float(before.image_N[row]), float(before.text_N[row])),
                      (float(after.image_N[row]), float(after.text_N[row])))
        for row in range(9)
    ]  # fmt: skip
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert 1.0 in expected
    assert min(expected) < 1


def test_a_step_that_changes_nothing_leaves_every_weight_at_one() -> None:
    nothing = BankLosses(torch.zeros(3), torch.zeros(3))
    assert pair_weights(impact_ratios(nothing, nothing)).tolist() == [1, 1, 1]
    assert pair_weights(impact_ratios(_bank(1), _bank(1))).tolist() == [1] * 9


@pytest.mark.parametrize("weights", ["per_sample", "batch"])
def test_the_loss_is_the_weighted_batch_and_the_bank(weights: Any) -> None:
    loss, bank, ratio = _losses(1), _bank(2), impact_ratios(_bank(2), _bank(7))
    output = npc_loss(loss, bank, ratio, replace(NPC, weights=weights, bank_weight=0.5))
    weight = pair_weights(ratio).tolist()
    of_batch = (
        sum(one * own for one, own in zip(weight, loss.tolist(), strict=True)) / 9
        if weights == "per_sample"
        else sum(weight) / 9 * sum(loss.tolist()) / 9
    )
    of_bank = (sum(bank.image_N.tolist()) + sum(bank.text_N.tolist())) / 9
    assert output.loss.item() == pytest.approx(of_batch + 0.5 * of_bank, abs=1e-12)


def test_what_hurts_clean_pairs_is_taken_for_noisy_and_ranked_by_how_much() -> None:
    ratio = torch.tensor([0.5, 2.0, 0.9, 1.0])
    output = npc_loss(torch.ones(4), BankLosses(torch.ones(4), torch.ones(4)), ratio, NPC)
    assert output.forget_N is not None
    assert output.confidence_N is not None
    assert output.forget_N.tolist() == [True, False, True, False]
    assert output.confidence_N.argsort().tolist() == [0, 2, 3, 1]
