"""The learning rate over the steps of one phase."""

from __future__ import annotations

import math

from pipeline_steps.core.schema import TrainingConfig


def learning_rate_factor(own_step: int, steps_per_epoch: int, settings: TrainingConfig) -> float:
    """Share of the peak learning rate at step `own_step` (from 0) of a phase.

    The phase is a schedule of its own, or stands `schedule_offset_epochs` into one of `schedule_total_epochs`; the
    warm-up is `warmup_fraction` of the whole schedule's steps. The official code has one schedule over both phases and
    counts its epochs from 1, so offsets 1 and 3 of 10: no warm-up, phase 2 from 0.80 of the peak, 0 an epoch early.

    `schedule_unit: pairs` is what NPC's official code does: an epoch is as many steps as it has pairs, of which only
    as many pass as it has batches, so that the rate all but stands still within an epoch. The warm-up stays one of
    batches.
    """
    epochs = settings.schedule_total_epochs or settings.epochs
    warmup_steps = round(settings.warmup_fraction * epochs * steps_per_epoch)
    unit = steps_per_epoch * (settings.batch_size if settings.schedule_unit == "pairs" else 1)
    epoch, within = divmod(own_step, steps_per_epoch)
    step = (epoch + settings.schedule_offset_epochs) * unit + within
    return cosine_factor(step, epochs * unit, warmup_steps)


def cosine_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak at `step` (from 0): linear warm-up that ends at 1, then a cosine to 0 at `total_steps`.

    Beyond `total_steps` the cosine goes on, so the rate rises again.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))
