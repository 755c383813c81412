"""What a method is: loss mathematics over the embeddings of one global batch. The loop knows nothing more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """L2-normalised embeddings of N pairs: images and captions (N, d), and the captions' hardest negatives (N, d)
    where the method asks for them. `logit_scale` is s = 1/tau > 0, a scalar tensor. `step_seed` differs from step to
    step and is the same in every process and after a resume: what random choices start from.
    """

    image_ND: Tensor
    text_ND: Tensor
    logit_scale: Tensor
    negative_ND: Tensor | None = None
    step_seed: int = 0

    def negatives(self) -> Tensor:
        """The hardest negatives (N, d). Raises ValueError when the loop was not asked for them."""
        if self.negative_ND is None:
            raise ValueError("these embeddings hold no negatives; the objective must set needs_negatives")
        return self.negative_ND


@dataclass(frozen=True)
class LossOutput:
    """The loss to minimise, its terms and diagnostics by name; where there is a forget set, its mask (N,) bool and
    the clean confidence (N,) in [0, 1] that it was picked by.
    """

    loss: Tensor
    terms: dict[str, Tensor | float] = field(default_factory=dict)
    forget_N: Tensor | None = None
    confidence_N: Tensor | None = None


class Objective(Protocol):
    """A callable from embeddings to a loss. `needs_negatives` asks the loop to encode hardest negatives too."""

    needs_negatives: bool

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Compute the loss of one global batch."""
        ...
