"""Softened targets: contrastive training whose targets follow the similarities inside each modality."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_steps.core.schema import SoftclipConfig, TrainBaselineConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.ncu.losses import realignment_loss


class SoftClip:
    """After SoftCLIP (Gao et al., AAAI 2024), as a fine-tuning baseline.

    An image's target over the captions is mostly its own caption and, in part, the distribution of its similarity to
    the other images; a caption's target over the images likewise, by the similarity of captions. The loss is the mean
    of both directions' KL divergence.

    Differs from that paper: similarities are those of the model's own embeddings, without gradient, not of an object
    detector's region features and tags; the negatives are not disentangled into a loss of their own; and it fine-tunes
    a reference at this pipeline's compute instead of training from scratch. Its scores are not that paper's method's.
    """

    needs_negatives = False

    def __init__(self, settings: SoftclipConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch; there is no forget set."""
        image, text = embeddings.image_ND, embeddings.text_ND
        targets = softened_target(image.detach(), self._settings), softened_target(text.detach(), self._settings)
        return LossOutput(realignment_loss(embeddings.logit_scale * (image @ text.T), *targets, "mean"))


def softened_target(features_ND: Tensor, settings: SoftclipConfig) -> Tensor:
    """(1 - weight) I + weight softmax(<f_i, f_j> / temperature), (N, N): each row a distribution.

    `features_ND` are l2-normalised. The softmax takes in the pair itself, so its own weight stays above 1 - weight.
    """
    similar_NN = (features_ND @ features_ND.T / settings.temperature).softmax(dim=1)
    own_NN = torch.eye(len(similar_NN), dtype=similar_NN.dtype, device=similar_NN.device)
    return (1 - settings.weight) * own_NN + settings.weight * similar_NN


def build(settings: TrainBaselineConfig) -> SoftClip:
    """The baseline with its settings."""
    return SoftClip(settings.softclip)
