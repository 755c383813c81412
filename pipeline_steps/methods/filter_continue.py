"""Filter, then continue: contrastive training without the forget set. Is unlearning more than leaving out?"""

from __future__ import annotations

from pipeline_steps.core.schema import TrainBaselineConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.contrastive import contrastive_loss_N
from pipeline_steps.methods.ncu.forget_set import pick_forget_set


class FilterContinue:
    """Plain CLIP loss among the retained pairs of each batch, with the P and the confidence of NCU (Eq. 2).

    Forget pairs are no one's negatives either: their images and captions take no part.
    """

    needs_negatives = False

    def __init__(self, settings: TrainBaselineConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Mean contrastive loss of the retained pairs."""
        sim_NN = embeddings.image_ND @ embeddings.text_ND.T
        picked = pick_forget_set(sim_NN, embeddings, self._settings.forget_set)
        kept = (~picked.forget_N).nonzero().squeeze(1)
        loss = contrastive_loss_N(sim_NN[kept][:, kept], embeddings.logit_scale).mean()
        return LossOutput(loss, {}, picked.forget_N, picked.confidence_N)


def build(settings: TrainBaselineConfig) -> FilterContinue:
    """The control with its settings."""
    return FilterContinue(settings)
