"""Gradient ascent, the paper's unlearning baseline (Sec. 5.3): -L_CLIP on the forget set, smoothed L_CLIP elsewhere."""

from __future__ import annotations

from pipeline_steps.core.schema import TrainBaselineConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.contrastive import contrastive_loss_N
from pipeline_steps.methods.ncu.forget_set import pick_forget_set


class GradientAscent:
    """Both means are over the pairs of their set; every pair is contrasted with the whole batch.

    The paper gives no weights; `ascent_weight` scales the ascent term, which has no lower bound.
    """

    needs_negatives = False

    def __init__(self, settings: TrainBaselineConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch, with the forget set of Eq. 2."""
        settings, scale = self._settings, embeddings.logit_scale
        sim_NN = embeddings.image_ND @ embeddings.text_ND.T
        picked = pick_forget_set(sim_NN, embeddings, settings.forget_set)
        forget_N = picked.forget_N
        retain = contrastive_loss_N(sim_NN, scale, settings.label_smoothing)[~forget_N].mean()
        forget = contrastive_loss_N(sim_NN, scale)[forget_N].sum() / forget_N.sum().clamp(min=1)
        loss = retain - settings.ascent_weight * forget
        return LossOutput(loss, {"retain": retain.detach(), "forget": forget.detach()}, forget_N, picked.confidence_N)


def build(settings: TrainBaselineConfig) -> GradientAscent:
    """The baseline with its settings."""
    return GradientAscent(settings)
