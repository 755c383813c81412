from __future__ import annotations

import pytest
from msgspec.structs import replace

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.training.schedule import cosine_factor, learning_rate_factor
from tests.unit.paths import CONFIG

RAW = read_yaml([CONFIG])
STEPS = 1400  # of an epoch of CC3M at batch 2048


def test_warm_up_rises_linearly_to_the_peak_and_the_cosine_falls_to_zero() -> None:
    factors = [cosine_factor(step, 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(earlier > later for earlier, later in zip(factors[10:], factors[11:], strict=False))


def test_without_warm_up_it_starts_at_the_peak() -> None:
    assert cosine_factor(0, 10, 0) == 1


def test_warm_up_over_the_whole_phase_never_divides_by_zero() -> None:
    assert cosine_factor(9, 10, 10) == 1
    assert cosine_factor(10, 10, 10) == 1


def test_beyond_its_end_the_cosine_rises_again() -> None:
    assert cosine_factor(110, 100, 0) == pytest.approx(cosine_factor(90, 100, 0))
    assert cosine_factor(150, 100, 0) == pytest.approx(0.5)


@pytest.mark.parametrize("section", ["train_reference", "learn_prompt", "unlearn"])
def test_by_default_every_phase_is_a_schedule_of_its_own(section: str) -> None:
    settings = _training(section, "ours")
    total = settings.epochs * 17
    warmup = round(settings.warmup_fraction * settings.epochs * 17)
    factors = [learning_rate_factor(step, 17, settings) for step in range(total)]
    assert factors == [cosine_factor(step, total, warmup) for step in range(total)]
    assert max(factors) == 1


def test_the_official_phase_1_skips_the_warm_up() -> None:
    settings = _training("learn_prompt", "official")
    assert round(settings.warmup_fraction * 10 * STEPS) == pytest.approx(100, abs=5)
    assert learning_rate_factor(0, STEPS, settings) == pytest.approx(0.98, abs=0.005)
    assert learning_rate_factor(0, STEPS, settings) > learning_rate_factor(1, STEPS, settings)
    assert learning_rate_factor(0, STEPS, _training("learn_prompt", "paper")) < 0.06


def test_the_official_phase_2_starts_at_0_80_reaches_zero_an_epoch_early_and_rises_again() -> None:
    settings = _training("unlearn", "official")
    factors = [learning_rate_factor(step, STEPS, settings) for step in range(settings.epochs * STEPS)]
    assert factors[0] == pytest.approx(0.80, abs=0.005)
    assert factors.index(min(factors)) == (settings.epochs - 1) * STEPS
    assert min(factors) == pytest.approx(0, abs=1e-12)
    assert factors[-1] > 0.02
    assert all(earlier < later for earlier, later in zip(factors[-STEPS:], factors[-STEPS + 1 :], strict=False))


def test_the_papers_phase_2_is_a_schedule_of_its_own() -> None:
    settings = _training("unlearn", "paper")
    factors = [learning_rate_factor(step, STEPS, settings) for step in range(settings.epochs * STEPS)]
    assert factors[0] < 0.02
    assert max(factors) == 1
    assert factors[-1] == min(factors[200:]) < 1e-6


def test_a_phase_can_stand_anywhere_in_a_longer_schedule() -> None:
    whole = replace(_training("unlearn", "ours"), epochs=5)
    second = replace(whole, epochs=3, schedule_offset_epochs=2, schedule_total_epochs=5)
    expected = [learning_rate_factor(step, 9, whole) for step in range(18, 45)]
    assert [learning_rate_factor(step, 9, second) for step in range(27)] == expected


def _training(section: str, preset: str) -> TrainingConfig:
    return load_section(resolve({**RAW, "preset": preset}), f"{section}.training", TrainingConfig)


def test_npc_counts_pairs_in_its_schedule_and_batches_in_its_steps() -> None:
    training = replace(
        load_section(resolve(RAW), "unlearn.training", TrainingConfig),
        epochs=5, batch_size=256, warmup_fraction=0.0, schedule_unit="pairs",
    )  # fmt: skip
    factors = [learning_rate_factor(step, 100, training) for step in range(500)]
    for epoch in range(5):  # the official cosine: step = pairs of an epoch x epoch + batch, over pairs of all epochs
        expected = [cosine_factor(25600 * epoch + batch, 5 * 25600, 0) for batch in range(100)]
        assert factors[100 * epoch : 100 * (epoch + 1)] == pytest.approx(expected)
    assert factors[99] > 0.999  # within an epoch it all but stands still
    assert factors[400] == pytest.approx(cosine_factor(4, 5, 0))
    batches = replace(training, schedule_unit="batches")
    assert learning_rate_factor(99, 100, batches) < 0.91


def test_npcs_warm_up_is_one_of_batches_in_both_units() -> None:
    training = replace(load_section(resolve(RAW), "unlearn.training", TrainingConfig), epochs=2, warmup_fraction=0.25)
    for unit in ("batches", "pairs"):
        chosen = replace(training, schedule_unit=unit)
        assert [learning_rate_factor(step, 10, chosen) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
