"""NCU's two phases as objectives: the hardest negative (Eq. 6) and the unlearning (Eq. 12)."""

from __future__ import annotations

import torch

from pipeline_steps.core.schema import LearnPromptConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.ncu.forget_set import clean_confidence, forget_mask
from pipeline_steps.methods.ncu.losses import matching_loss, realignment_loss, relation_loss, separation_loss
from pipeline_steps.methods.ncu.targets import alignment_targets
from pipeline_steps.methods.ncu.transport import masked_plan


class HardestNegative:
    """Phase 1, Eq. 6 on the retained pairs: lambda (L_sep + L_rel) + L_itm."""

    needs_negatives = True

    def __init__(self, settings: LearnPromptConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch; the forget set is left out of every term."""
        settings, scale = self._settings, embeddings.logit_scale
        sim_NN = (embeddings.image_ND @ embeddings.text_ND.T).detach()
        forget_N = forget_mask(
            clean_confidence(sim_NN, scale.detach(), settings.forget_set.direction), settings.forget_set.fraction
        )
        image, text, negative = (
            tensor[~forget_N] for tensor in (embeddings.image_ND, embeddings.text_ND, embeddings.negatives())
        )
        separation = separation_loss(text, negative, settings.separation.alpha, settings.separation.beta)
        relation = relation_loss(text, negative, settings.relation)
        matching = matching_loss(image, text, negative, scale)
        loss = settings.lambda_text * (separation + relation) + matching
        terms = {"separation": separation.detach(), "relation": relation.detach(), "matching": matching.detach()}
        return LossOutput(loss, dict(terms), forget_N)


class Unlearning:
    """Phase 2, Eq. 12: realignment to the masked transport plan, plus L_sep."""

    needs_negatives = True

    def __init__(self, settings: UnlearnConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch; confidence, plan and targets carry no gradient."""
        settings, scale = self._settings, embeddings.logit_scale
        image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
        sim_NM = torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1)
        detached = sim_NM.detach()
        forget_N = forget_mask(
            clean_confidence(detached[:, :-1], scale.detach(), settings.forget_set.direction),
            settings.forget_set.fraction,
        )
        solved = masked_plan(detached, forget_N, settings.transport)
        targets = alignment_targets(solved.plan_NM, forget_N, settings.gamma, settings.mix_order)
        realignment = realignment_loss(scale * sim_NM, *targets, settings.loss_reduction)
        separation = separation_loss(text, negative, settings.separation.alpha, settings.separation.beta)
        loss = realignment + settings.separation_weight * separation
        terms = {"realignment": realignment.detach(), "separation": separation.detach()}
        diagnostics = {
            "transport/iterations": float(solved.iterations),
            "transport/marginal_error": solved.marginal_error,
        }
        return LossOutput(loss, {**terms, **diagnostics}, forget_N)
