"""Contrastive training: of the reference, and, from there on, the equal-compute control."""

from __future__ import annotations

from pipeline_steps.core.schema import TrainBaselineConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.contrastive import contrastive_loss_N


class Continued:
    """Plain CLIP loss on every pair of the batch, the mismatched ones too."""

    needs_negatives = False

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Mean contrastive loss of the batch."""
        sim_NN = embeddings.image_ND @ embeddings.text_ND.T
        return LossOutput(contrastive_loss_N(sim_NN, embeddings.logit_scale).mean())


def build(settings: TrainBaselineConfig) -> Continued:  # noqa: ARG001 - every baseline is built from its section
    """The control has no setting of its own."""
    return Continued()
