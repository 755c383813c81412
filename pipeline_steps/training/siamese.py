"""NPC's step: one step of a siamese copy tells what each pair does to clean pairs like it."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor

from pipeline_steps.core.schema import TrainingConfig, TrainNpcConfig
from pipeline_steps.data.pairs import Batch, mixed_seed
from pipeline_steps.methods.base import LossOutput
from pipeline_steps.methods.contrastive import contrastive_loss_N
from pipeline_steps.methods.npc.weights import BankLosses, impact_ratios, npc_loss
from pipeline_steps.training.optimizer import build_optimizer, trained_parameters
from pipeline_steps.training.update import (
    ForwardPass,
    Learner,
    Update,
    apply_gradients,
    forward,
    not_finite,
    sum_gradients,
)

_OFFICIAL_FACTOR = 4.0  # the loss of both directions added up, where ours is their mean, and taken back twice


class SiameseStepper:
    """A step of NPC on a global batch of N pairs with their bank.

    The copy A' takes the weights of the model A, and one step of an optimiser of A's kind and learning rate on the
    contrastive loss of the batch. The bank's losses under A over those under A' weigh the pairs; A then steps on the
    weighted batch and the bank. `siamese: stateless` has an optimiser without memory; `official` keeps its moments from
    step to step, and takes the gradient of both directions' sum twice. The bank's losses are taken in float32 in any
    `precision`: what one step of a small rate changes is less than half precision holds.
    """

    def __init__(self, settings: TrainNpcConfig) -> None:
        self._settings = settings
        self._siamese: _Siamese | None = None
        self._moments: dict[str, Any] | None = None

    def __call__(self, learner: Learner, settings: TrainingConfig, batch: Batch, step_seed: int) -> Update:
        """One step; raises NotFiniteError before it where `on_nonfinite` is `stop`."""
        if batch.bank is None:
            raise ValueError("these batches have no bank; the data set must be BankedPairs")
        siamese = self._copy_of(learner, settings)
        seeds = [mixed_seed(step_seed, learner.processes.rank, part) for part in range(3)]
        own = forward(learner, settings, batch, seeds[0])
        graph, exact = self._settings.bank_gradient, msgspec.structs.replace(settings, precision="fp32")
        banks = [
            forward(learner, exact, part, seed, graph=graph) for part, seed in zip(batch.bank, seeds[1:], strict=True)
        ]
        learner.optimizer.zero_grad(set_to_none=True)
        loss_N = _losses(own)
        with torch.set_grad_enabled(graph):
            before = BankLosses(*(_losses(passed) for passed in banks))
        alone = LossOutput(loss_N.mean(), {"batch": loss_N.detach().mean()})
        if not learner.processes.agree(bool(torch.isfinite(loss_N).all())):
            return not_finite(settings, "loss", alone)
        torch.autograd.backward(learner.scaler.scale(alone.loss), retain_graph=True)
        own.back(keep_graph=True)
        sum_gradients(learner, settings)
        if not all(bool(torch.isfinite(gradient).all()) for gradient in _gradients(learner)):
            return apply_gradients(learner, settings, alone)
        siamese.step(learner, self._settings.siamese)
        learner.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            after = [
                _losses(forward(dataclasses.replace(learner, model=siamese.model), exact, part, seed, graph=False))
                for part, seed in zip(batch.bank, seeds[1:], strict=True)
            ]
        output = npc_loss(loss_N, before, impact_ratios(before, BankLosses(*after)), self._settings)
        if not learner.processes.agree(bool(torch.isfinite(output.loss))):
            return not_finite(settings, "loss", output)
        torch.autograd.backward(learner.scaler.scale(output.loss))
        for passed in (own, *banks) if graph else (own,):
            passed.back()
        sum_gradients(learner, settings)
        return apply_gradients(learner, settings, output)

    def state(self) -> dict[str, Any]:
        """The moments that `siamese: official` keeps."""
        kept = self._siamese is not None and self._settings.siamese == "official"
        return {"moments": self._siamese.optimizer.state_dict() if self._siamese and kept else self._moments}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._moments, self._siamese = state["moments"], None

    def _copy_of(self, learner: Learner, settings: TrainingConfig) -> _Siamese:
        if self._siamese is None:
            model = copy.deepcopy(learner.model)
            self._siamese = _Siamese(model, build_optimizer(model, settings))
            if self._moments is not None:
                self._siamese.optimizer.load_state_dict(self._moments)
        return self._siamese


@dataclass
class _Siamese:
    """The copy A' and its optimiser, whose parameter groups are those of A's, in their order."""

    model: Any
    optimizer: torch.optim.Optimizer
    tensors: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = _tensors(self.model)

    @torch.no_grad()
    def step(self, learner: Learner, kind: str) -> None:
        """Become A after one step on the gradients that A holds."""
        for own, theirs in zip(self.tensors, _tensors(learner.model), strict=True):
            own.copy_(theirs)
        factor = (_OFFICIAL_FACTOR if kind == "official" else 1.0) / learner.scaler.get_scale()
        pairs = zip(trained_parameters(self.optimizer), trained_parameters(learner.optimizer), strict=True)
        for mine, other in pairs:
            mine.grad = None if other.grad is None else other.grad * factor
        if kind == "stateless":
            self.optimizer.state.clear()
        for group, others in zip(self.optimizer.param_groups, learner.optimizer.param_groups, strict=True):
            group["lr"] = others["lr"]
        self.optimizer.step()


def _losses(passed: ForwardPass) -> Tensor:
    """The contrastive loss of each pair of a pass, (N,)."""
    image_ND, text_ND = passed.leaves[:2]
    return contrastive_loss_N(image_ND @ text_ND.T, passed.learner.model.logit_scale.exp())


def _gradients(learner: Learner) -> list[Tensor]:
    return [parameter.grad for parameter in trained_parameters(learner.optimizer) if parameter.grad is not None]


def _tensors(model: Any) -> list[Tensor]:
    """Everything that a model is: parameters and buffers, always in one order."""
    return [*model.parameters(), *model.buffers()]
