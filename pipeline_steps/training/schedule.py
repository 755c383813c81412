"""The learning rate over the steps of one phase."""

from __future__ import annotations

import math


def cosine_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up that ends at 1, then a cosine towards 0.

    Each phase has its own schedule; the official code's one schedule for both starts its count an epoch late.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
