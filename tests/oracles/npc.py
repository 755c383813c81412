"""NPC as plain loops in float64: losses, weights, neighbours, and a whole step by automatic differentiation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline_steps.core.schema import TrainingConfig, TrainNpcConfig
from pipeline_steps.data.pairs import Batch

Vectors = Sequence[Sequence[float]]


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def pair_losses(images: Any, texts: Any, scale: Any) -> list[Any]:
    """Cross entropy of every pair among the pairs of its batch, the mean of both directions."""
    found = []
    for own in range(len(images)):
        rows = [scale * (images[own] * text).sum() for text in texts]
        columns = [scale * (image * texts[own]).sum() for image in images]
        found.append(sum(torch.logsumexp(torch.stack(one), 0) - one[own] for one in (rows, columns)) / 2)
    return found


def weight(before: tuple[float, float], after: tuple[float, float]) -> float:
    ratio = (before[0] / after[0] + before[1] / after[1]) / 2
    return math.tanh(ratio) if ratio < 1 else 1.0


def nearest(features: Vectors, own: Sequence[int], probability: Sequence[float], clean: Sequence[bool]) -> list[int]:
    """For each pair the most probable clean pair of the picture that is nearest and not its own."""
    found = []
    for pair in range(len(own)):
        best, place = -math.inf, -1
        for other in range(len(own)):
            if not clean[other] or own[other] == own[pair]:
                continue
            value = cosine(features[own[pair]], features[own[other]])
            if (value, probability[other]) > (best, probability[place] if place >= 0 else -1):
                best, place = value, other
        found.append(place)
    return found


def step(model: Any, batch: Batch, training: TrainingConfig, npc: TrainNpcConfig, moments: Any = None) -> Any:
    """The weights (name to tensor) after one step of NPC from `model`, in float64, and the moments of the siamese."""
    model = copy.deepcopy(model).double()
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    losses = _losses(model, batch)
    gradients = torch.autograd.grad(sum(losses) / len(losses), list(named.values()), retain_graph=True)
    official = npc.siamese == "official"
    taken = [gradient * (4 if official else 1) for gradient in gradients]
    siamese = copy.deepcopy(model)
    moments = _adamw(siamese, list(named), taken, training, moments if official else None)
    assert batch.bank is not None
    before = [_losses(model, part) for part in batch.bank]
    with torch.no_grad():
        after = [_losses(siamese, part) for part in batch.bank]
    weights = [
        weight(*(tuple(float(one[row].detach()) for one in both) for both in (before, after)))  # type: ignore[arg-type]
        for row in range(len(losses))
    ]
    if npc.weights == "per_sample":
        loss = sum(one * own for one, own in zip(weights, losses, strict=True)) / len(losses)
    else:
        loss = sum(weights) / len(weights) * sum(losses) / len(losses)
    if npc.bank_gradient:
        loss = loss + npc.bank_weight * (sum(before[0]) + sum(before[1])) / len(losses)
    _adamw(model, list(named), torch.autograd.grad(loss, list(named.values())), training, None)
    return {name: one.detach() for name, one in model.named_parameters()}, moments


def _losses(model: Any, batch: Batch) -> list[Tensor]:
    images = model.encode_image(batch.images.double(), normalize=True)
    return pair_losses(images, model.encode_text(batch.tokens, normalize=True), model.logit_scale.exp())


def _adamw(model: Any, names: Sequence[str], gradients: Any, training: TrainingConfig, moments: Any) -> Any:
    """One AdamW step in place; matrices alone decay. `moments`: (steps before, first, second), None for none."""
    count, first, second = moments or (0, [0.0] * len(names), [0.0] * len(names))
    kept: Any = (count + 1, [], [])
    named = dict(model.named_parameters())
    for place, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        mean = training.beta1 * first[place] + (1 - training.beta1) * gradient
        square = training.beta2 * second[place] + (1 - training.beta2) * gradient**2
        kept[1].append(mean)
        kept[2].append(square)
        step_size = mean / (1 - training.beta1 ** kept[0])
        spread = (square / (1 - training.beta2 ** kept[0])).sqrt() + training.adam_epsilon
        with torch.no_grad():
            decay = training.weight_decay if named[name].ndim >= 2 else 0.0
            named[name].mul_(1 - training.lr * decay).sub_(training.lr * step_size / spread)
    return kept
