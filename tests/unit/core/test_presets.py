"""The three columns of config/methods.yaml, and for each of their keys the test that shows its effect."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace

from pipeline_steps.core.config import load_config, load_section, read_yaml, resolve
from pipeline_steps.core.schema import LearnPromptConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings
from pipeline_steps.methods.ncu.objectives import HardestNegative, Unlearning
from tests.unit.methods.batches import batch
from tests.unit.paths import CONFIG, REPOSITORY

COLUMNS = read_yaml([CONFIG.with_name("methods.yaml")])
# A full-size architecture: the demo's text tower has fewer blocks than the official code freezes.
RAW = {**read_yaml([CONFIG]), "model": {"architecture": "ViT-B-16"}}

SHOWN_BY = {
    "separation.kind": "methods/ncu/test_objectives.py::test_phase_1_with_the_plain_l2_distance",
    "separation.alpha": "methods/ncu/test_losses.py::test_separation_equals_a_plain_loop",
    "separation.beta": "methods/ncu/test_losses.py::test_separation_equals_a_plain_loop",
    "negative_text.source": "data/test_negative_text.py::test_a_prefix_is_drawn",
    "negative_text.augment": "data/test_negative_text.py::test_augmentation_changes_the_caption",
    "forget_set.fraction": "methods/ncu/test_forget_set.py::test_mask_takes_the_floor_of_the_share",
    "forget_set.direction": "methods/ncu/test_forget_set.py::test_confidence_equals_equation_2",
    "forget_set.softmax": "methods/ncu/test_forget_set.py::test_official_softmax_overflows_at_scale_100",
    "forget_set.selection": "methods/ncu/test_forget_set.py::test_random_selection_draws_as_many",
    "learn_prompt.prompt_vectors": "models/test_prompt.py::test_a_prompt_that_does_not_fit",
    "learn_prompt.prompt_init_std": "models/test_prompt.py::test_",
    "learn_prompt.prompt_lr": "training/test_optimizer.py::test_only_matrices_decay",
    "learn_prompt.prompt_weight_decay": "training/test_optimizer.py::test_only_matrices_decay",
    "learn_prompt.lambda_text": "methods/ncu/test_objectives.py::test_phase_1_is_equation_6",
    "learn_prompt.relation": "methods/ncu/test_losses.py::test_relation_variants_differ",
    "learn_prompt.matching_bias": "methods/ncu/test_objectives.py::test_phase_1_with_a_matching_bias",
    "unlearn.gamma": "methods/ncu/test_targets.py::test_targets_equal_a_plain_loop",
    "unlearn.realign": "methods/ncu/test_objectives.py::test_false_positives_only",
    "unlearn.mix_order": "methods/ncu/test_targets.py::test_paper_order_all_but_drops_the_plan",
    "unlearn.text_to_image_target": "methods/ncu/test_targets.py::test_the_official_last_row_sums_to_61_9",
    "unlearn.loss_reduction": "methods/ncu/test_losses.py::test_realignment_equals_a_plain_loop",
    "unlearn.temperature": "methods/ncu/test_objectives.py::test_phase_2_without_temperature",
    "unlearn.separation_weight": "methods/ncu/test_objectives.py::test_phase_2_is_equation_12",
    "unlearn.separation_over": "methods/ncu/test_objectives.py::test_phase_2_is_equation_12",
    "unlearn.transport.epsilon": "methods/ncu/test_sinkhorn.py::test_plan_equals_an_independent_solver",
    "unlearn.transport.normalize_cost": "methods/ncu/test_transport.py::test_cost_is_one_minus_cosine",
    "unlearn.transport.solves": "methods/ncu/test_objectives.py::test_phase_2_with_two_solves",
    "unlearn.transport.column_marginal": "methods/ncu/test_transport.py::test_.*(share|marginal)",
    "unlearn.transport.stopping": "methods/ncu/test_.*.py::test_.*(potential|stop|official)",
    "unlearn.transport.max_iterations": "methods/ncu/test_.*.py::test_.*(iteration|potential|stop|official)",
    "unlearn.transport.tolerance": "methods/ncu/test_.*.py::test_.*marginals_hold",
    "training.epochs": "training/test_schedule.py::test_by_default_every_phase",
    "training.lr": "training/test_optimizer.py::test_only_matrices_decay",
    "training.weight_decay": "training/test_optimizer.py::test_only_matrices_decay",
    "training.weight_decay_on": "training/test_optimizer.py::test_official_names_miss_norm1_and_norm2",
    "training.adam_epsilon": "training/test_optimizer.py::test_adam_has_the_epsilon",
    "training.warmup_fraction": "training/test_schedule.py::test_the_official_phase_1_skips_the_warm_up",
    "training.schedule_offset_epochs": "training/test_schedule.py::test_the_official_phase_2_starts_at_0_80",
    "select_clean.pooling": "methods/clipcleaner/test_posteriors.py::test_a_sum_favours",
    "select_clean.temperature": "test_select_clean.py::test_a_temperature_of_its_own",
    "select_clean.regression": "methods/clipcleaner/test_posteriors.py::test_out_of_fold",
    "select_clean.folds": "test_select_clean.py::test_folds",
    "select_clean.mixture.max_iterations": "methods/clipcleaner/test_selection.py::test_the_mixture_of_each_class",
    "select_clean.mixture.tolerance": "methods/clipcleaner/test_selection.py::test_the_mixture_of_each_class",
    "select_clean.mixture.covariance_floor": "methods/clipcleaner/test_selection.py::test_the_mixture_of_each_class",
    "select_clean.small_classes": "methods/clipcleaner/test_selection.py::test_a_class_that_no_mixture_divides",
    "select_clean.empty_classes": "methods/clipcleaner/test_selection.py::test_a_class_without_any",
    "forget_set.mixture.max_iterations": "methods/ncu/test_forget_set.py::test_small_loss",
    "forget_set.mixture.tolerance": "methods/ncu/test_forget_set.py::test_small_loss",
    "forget_set.mixture.covariance_floor": "methods/ncu/test_forget_set.py::test_small_loss",
    "training.schedule_unit": "training/test_schedule.py::test_npc_counts_pairs",
    "training.weight_storage": "training/test_optimizer.py::test_weights_in_half",
    "build_memory_bank.mixture.max_iterations": "methods/npc/test_memory_bank.py::test_the_mixture_is_scikit_learns",
    "build_memory_bank.mixture.tolerance": "methods/npc/test_memory_bank.py::test_the_mixture_is_scikit_learns",
    "build_memory_bank.mixture.covariance_floor": "methods/npc/test_memory_bank.py::test_the_mixture_is_scikit_learns",
    "build_memory_bank.clean_threshold": "test_build_memory_bank.py::test_a_lower_threshold",
    "build_memory_bank.exclude_self": "methods/npc/test_memory_bank.py::test_a_clean_pair_is_its_own_neighbour",
    "train_npc.bank_gradient": "training/test_siamese.py::test_a_step_equals_a_plain_float64_one",
    "train_npc.bank_weight": "training/test_siamese.py::test_a_step_equals_a_plain_float64_one",
    "train_npc.weights": "training/test_siamese.py::test_a_step_equals_a_plain_float64_one",
    "train_npc.siamese": "training/test_siamese.py::test_the_official_siamese_remembers",
    "training.schedule_total_epochs": "training/test_schedule.py::test_the_official_phase_2_starts_at_0_80",
    "training.grad_clip_norm": "training/test_.*.py::test_.*(clip|plain_backpropagation)",
    "training.max_logit_scale": "training/test_update.py::test_the_logit_scale_is_clamped",
    "training.precision": "training/test_update.py::test_half_precisions_follow",
    "training.on_nonfinite": "training/test_update.py::test_what_is_not_finite_is_skipped",
    "training.gather": "training/test_distributed.py::test_the_official_gather",
    "training.shuffle": "data/test_pairs.py::test_.*(order|shuffl)",
    "training.truncation": "models/test_.*.py::test_.*(truncat|long_caption|keeps_its_end)",
    "training.selection": "training/test_.*.py::test_.*(select|best|validation)",
    "training.crop_scale_min": "data/test_pairs.py::test_order_and_augmentation",
    "training.freeze.image_tower": "models/test_freeze.py::test_what_trains",
    "training.freeze.image_projection": "models/test_freeze.py::test_what_trains",
    "training.freeze.text_tower": "models/test_freeze.py::test_what_trains",
    "training.freeze.token_embedding": "models/test_freeze.py::test_what_trains",
    "training.freeze.positional_embedding": "models/test_freeze.py::test_what_trains",
    "training.freeze.text_blocks": "models/test_freeze.py::test_what_trains",
}


def test_the_columns_have_the_same_keys() -> None:
    ours, paper, official = (_leaves(COLUMNS[name]).keys() for name in ("ours", "paper", "official"))
    assert COLUMNS.keys() == {"ours", "paper", "official"}
    assert ours == paper == official


@pytest.mark.parametrize("preset", COLUMNS)
def test_a_preset_gives_its_column_and_the_configuration_goes_over_it(preset: str) -> None:
    config = load_config({**RAW, "preset": preset})
    assert config.preset == preset
    resolved = _leaves(resolve({**RAW, "preset": preset}))
    given = _leaves(RAW)
    for key, value in _leaves(COLUMNS[preset]).items():
        assert resolved[key] == given.get(key, value)
    over = load_config({**RAW, "preset": preset, "unlearn": {**RAW["unlearn"], "gamma": 0.123}})
    assert over.unlearn.gamma == 0.123
    assert replace(over, unlearn=config.unlearn) == config


def test_every_key_is_in_the_list_of_tests() -> None:
    assert {_short(key) for key in _leaves(COLUMNS["ours"])} == SHOWN_BY.keys()


@pytest.mark.parametrize("key", SHOWN_BY)
def test_every_key_has_a_test_that_shows_its_effect(key: str) -> None:
    place, _, test = SHOWN_BY[key].partition("::")
    files = [path for path in (REPOSITORY / "tests" / "unit").rglob("test_*.py") if re.search(f"{place}$", str(path))]
    assert files
    assert any(re.search(rf"^def {test}", path.read_text(encoding="utf-8"), re.MULTILINE) for path in files)


def test_every_key_of_the_losses_in_which_paper_and_official_differ_changes_the_loss() -> None:
    """At the official scale of 100: on crowded pairs, where exponentials overflow, or on pairs that are further apart,
    where 100 iterations are too few.
    """
    batches = [_pairs(dimensions) for dimensions in (8, 16)]
    paper, official = (_leaves(COLUMNS[name]) for name in ("paper", "official"))
    differing = [
        key
        for key in official
        if paper[key] != official[key] and key.startswith(("learn_prompt", "unlearn")) and ".training." not in key
        if not key.endswith("negative_text.augment")
    ]
    assert len(differing) == 15
    for key in differing:
        loss = partial(_loss, key.partition(".")[0])
        assert any(loss({}, pairs) != loss({key: paper[key]}, pairs) for pairs in batches), key


def _pairs(dimensions: int) -> Embeddings:
    image, other, negative = batch(96, dimensions=dimensions, match=0.0)
    match = torch.linspace(0.3, 0.85, 96)[:, None]
    text = F.normalize(match * image + (1 - match) * other, dim=1)
    return Embeddings(image.float(), text.float(), torch.tensor(100.0), negative.float())


def _loss(phase: str, changes: dict[str, Any], embeddings: Embeddings) -> float:
    """The loss of a phase under the official column with these keys changed."""
    raw = resolve({**RAW, "preset": "official"})
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = raw
        for part in parents:
            section = section[part]
        section[last] = value
    if phase == "learn_prompt":
        return HardestNegative(load_section(raw, phase, LearnPromptConfig))(embeddings).loss.item()
    return Unlearning(load_section(raw, phase, UnlearnConfig))(embeddings).loss.item()


def _short(key: str) -> str:
    """Sections that several steps have stand once: `unlearn.training.lr` is `training.lr`."""
    return re.sub(r"^\w+\.(?=(training|forget_set|separation|negative_text)\.)", "", key)


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _leaves(inner, f"{prefix}.{name}" if prefix else name).items()
    }
