"""NCU's second phase as a textbook writes it: dense matrices, two log-domain solves of a fixed number of iterations.

Same mathematics as `pipeline_steps.methods.ncu.objectives.Unlearning` under the preset ours (Eqs. 2, 8 to 12), with
nothing done for speed, memory or early stopping.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_steps.core.schema import UnlearnConfig
from pipeline_steps.methods.base import Embeddings

ITERATIONS = 100


def textbook_unlearning(
    embeddings: Embeddings, settings: UnlearnConfig, iterations: int = ITERATIONS
) -> tuple[Tensor, float]:
    """The loss of one batch, and the largest relative error of any marginal of its two plans."""
    image, text, negative = embeddings.image_ND, embeddings.text_ND, embeddings.negatives()
    size = len(image)
    sim_NN = image @ text.T
    sim_NM = torch.cat([sim_NN, (image * negative).sum(dim=1, keepdim=True)], dim=1)

    # The forget set: the lowest matched softmax probabilities from image to text.
    confidence_N = (embeddings.logit_scale * sim_NN).detach().softmax(dim=1).diagonal()
    forgotten = confidence_N.argsort(stable=True)[: int(settings.forget_set.fraction * size)]
    forget_N = torch.zeros(size, dtype=torch.bool, device=image.device)
    forget_N[forgotten] = True

    # The masked cost, and the matrix that a plan is mixed with.
    identity_NM = torch.eye(size, size + 1, device=image.device)
    identity_NM[forget_N] = 0
    identity_NM[forget_N, size] = 1
    blocked_NM = torch.eye(size, size + 1, device=image.device).bool() & forget_N[:, None]
    blocked_NM[:, size] = ~forget_N
    cost_NM = 1 - sim_NM.detach()
    cost_NM = cost_NM / cost_NM.max()

    # Two plans, their targets, and the loss of both directions.
    epsilon = settings.transport.epsilon
    row_N, column_M = torch.full_like(cost_NM[:, 0], 1 / size), torch.full_like(cost_NM[0], 1 / (size + 1))
    plan_NM = log_domain_plan(cost_NM, blocked_NM, (row_N, column_M), epsilon, iterations)
    plan_MN = log_domain_plan(cost_NM.T, blocked_NM.T, (column_M, row_N), epsilon, iterations)
    logits_NM = embeddings.logit_scale * sim_NM
    image_to_text = _divergence(logits_NM, _target(plan_NM, identity_NM, settings.gamma))
    text_to_image = _divergence(logits_NM.T, _target(plan_MN, identity_NM.T, settings.gamma))

    cosine_N = (text * negative).sum(dim=1)
    low, high = settings.separation.alpha, settings.separation.beta
    separation = ((low - cosine_N).clamp(min=0) + (cosine_N - high).clamp(min=0)).mean()
    loss = (image_to_text + text_to_image) / 2 + settings.separation_weight * separation
    errors = [_error(plan_NM, row_N, column_M), _error(plan_MN, column_M, row_N)]
    return loss, max(errors)


def log_domain_plan(
    cost_NM: Tensor, blocked_NM: Tensor, masses: tuple[Tensor, Tensor], epsilon: float, iterations: int
) -> Tensor:
    """Sinkhorn as it is usually written down: each half step corrects a potential by the log-sum-exp of the plan."""
    row_N, column_M = masses
    f_N, g_M = torch.zeros_like(row_N), torch.zeros_like(column_M)

    def log_plan() -> Tensor:
        return ((f_N[:, None] + g_M[None, :] - cost_NM) / epsilon).masked_fill(blocked_NM, -torch.inf)

    for _ in range(iterations):
        f_N = f_N + epsilon * (row_N.log() - log_plan().logsumexp(dim=1))
        g_M = g_M + epsilon * (column_M.log() - log_plan().logsumexp(dim=0))
    return log_plan().exp()


def _target(plan: Tensor, identity: Tensor, gamma: float) -> Tensor:
    mixed = gamma * plan / plan.sum(dim=1, keepdim=True) + (1 - gamma) * identity
    return mixed / mixed.sum(dim=1, keepdim=True)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="batchmean")


def _error(plan: Tensor, rows: Tensor, columns: Tensor) -> float:
    return max(
        float((plan.sum(dim=1) / rows - 1).abs().max()),
        float((plan.sum(dim=0) / columns - 1).abs().max()),
    )
