"""NCU's two phases as objectives: the hardest negative (Eq. 6) and the unlearning (Eq. 12)."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_steps.core.schema import LearnPromptConfig, SeparationConfig, UnlearnConfig
from pipeline_steps.methods.base import Embeddings, LossOutput
from pipeline_steps.methods.ncu.forget_set import pick_forget_set
from pipeline_steps.methods.ncu.losses import (
    farthest_loss,
    matching_loss,
    realignment_loss,
    relation_loss,
    separation_loss,
)
from pipeline_steps.methods.ncu.targets import alignment_targets, mass_on_negative, one_hot_when_retained
from pipeline_steps.methods.ncu.transport import TransportPlan, masked_plan


class HardestNegative:
    """Phase 1, Eq. 6 on the retained pairs: lambda (L_sep + L_rel) + L_itm."""

    needs_negatives = True

    def __init__(self, settings: LearnPromptConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch; the forget set is left out of every term.

        `separation.kind: l2` (V2) has the plain L2 distance in place of L_sep and L_rel.
        """
        settings, scale = self._settings, embeddings.logit_scale
        picked = pick_forget_set(embeddings.image_ND @ embeddings.text_ND.T, embeddings, settings.forget_set)
        image, text, negative = (
            tensor[~picked.forget_N] for tensor in (embeddings.image_ND, embeddings.text_ND, embeddings.negatives())
        )
        separation = opposition = _separation(text, negative, settings.separation)
        terms = {"separation": separation.detach()}
        if settings.separation.kind == "interval":
            relation = relation_loss(text, negative, settings.relation)
            terms["relation"] = relation.detach()
            opposition = separation + relation
        matching = matching_loss(image, text, negative, scale, settings.matching_bias)
        terms["matching"] = matching.detach()
        loss = settings.lambda_text * opposition + matching
        return LossOutput(loss, dict(terms), picked.forget_N, picked.confidence_N)


class Unlearning:
    """Phase 2, Eq. 12: realignment to the masked transport plan, plus L_sep.

    `realign` holds ablations V3 and V4, which the paper names and does not define. Our reading: `false_negatives` uses
    no forget set (nothing masked on the diagonal, identity target, no t^Neg in Eq. 11); `false_positives` keeps
    one-hot targets on retained rows and soft ones on forget rows.
    """

    needs_negatives = True

    def __init__(self, settings: UnlearnConfig) -> None:
        self._settings = settings

    def __call__(self, embeddings: Embeddings) -> LossOutput:
        """Loss of one batch; confidence, plan and targets carry no gradient."""
        settings = self._settings
        image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
        scale = embeddings.logit_scale if settings.temperature == "logit_scale" else 1.0
        if settings.realign == "false_negatives":
            sim_NN = image @ text.T
            solved, targets = self._without_forget_set(sim_NN.detach())
            logits, forget_N, confidence_N = scale * sim_NN, None, None
        else:
            sim_NM = torch.cat([image @ text.T, (image * negative).sum(dim=1, keepdim=True)], dim=1)
            detached = sim_NM.detach()
            forget_N, confidence_N = pick_forget_set(detached[:, :-1], embeddings, settings.forget_set)
            solved = masked_plan(detached, forget_N, settings.transport)
            logits, targets = scale * sim_NM, self._targets(solved, forget_N)
        realignment = realignment_loss(logits, *targets, settings.loss_reduction)
        if settings.separation_over == "retained" and forget_N is not None:
            text, negative = text[~forget_N], negative[~forget_N]
        separation = _separation(text, negative, settings.separation)
        loss = realignment + settings.separation_weight * separation
        terms = {"realignment": realignment.detach(), "separation": separation.detach(), **_diagnostics(solved)}
        if forget_N is not None:
            terms["transport/forget_mass_on_negative"] = mass_on_negative(solved.plan_NM, forget_N)
        return LossOutput(loss, terms, forget_N, confidence_N)

    def _targets(self, solved: TransportPlan, forget_N: Tensor) -> tuple[Tensor, Tensor]:
        settings = self._settings
        plan_NM, plan_MN = solved.plan_NM, solved.plan_NM.T if solved.plan_MN is None else solved.plan_MN
        if settings.realign == "false_positives":
            plan_NM, plan_MN = one_hot_when_retained(plan_NM, plan_MN, forget_N)
        return alignment_targets(
            plan_NM,
            forget_N,
            settings.gamma,
            settings.mix_order,
            plan_MN=plan_MN,
            text_to_image=settings.text_to_image_target,
        )

    def _without_forget_set(self, sim_NN: Tensor) -> tuple[TransportPlan, tuple[Tensor, Tensor]]:
        """V3: the plan and the targets (N, N) of both directions. A last column at cosine 1 takes no part in either."""
        size = len(sim_NN)
        nobody_N = torch.zeros(size, dtype=torch.bool, device=sim_NN.device)
        sim_NM = torch.cat([sim_NN, sim_NN.new_ones(size, 1)], dim=1)
        solved = masked_plan(sim_NM, nobody_N, self._settings.transport)
        target_NM, target_MN = self._targets(solved, nobody_N)
        return solved, (target_NM[:, :size], target_MN[:size])


def _separation(text_ND: Tensor, negative_ND: Tensor, settings: SeparationConfig) -> Tensor:
    if settings.kind == "l2":
        return farthest_loss(text_ND, negative_ND)
    return separation_loss(text_ND, negative_ND, settings.alpha, settings.beta)


def _diagnostics(solved: TransportPlan) -> dict[str, Tensor | float]:
    return {
        "transport/iterations": float(solved.iterations),
        "transport/marginal_error": solved.marginal_error,
        "transport/seconds": solved.seconds,
    }
