"""The device that a step without processes of its own works on."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """The first GPU where there is one (CUDA_VISIBLE_DEVICES chooses, or hides it), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
