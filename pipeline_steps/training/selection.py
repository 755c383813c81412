"""Choosing an epoch by pairs that were held out of training; never by a test set."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import TrainingConfig
from pipeline_steps.data.pairs import Batch, EpochRows, PairDataset, pair_loader
from pipeline_steps.models.freeze import set_training_mode
from pipeline_steps.training.update import Learner, precision_of

LOG = logging.getLogger("pipeline_steps")
METRIC = "validation/recall_at_1"  # MLflow allows no @


class BestEpoch:
    """The weights of the epoch with the highest in-batch recall@1 on validation pairs; equal scores: the earlier.

    The recall is the mean of both directions over the whole batches of `batch_size` pairs in the manifest's order (or
    over all of them, where they are fewer). Raises PipelineError for fewer than two validation pairs.
    """

    def __init__(self, validation: PairDataset, settings: TrainingConfig) -> None:
        if len(validation) < 2:
            raise PipelineError(
                "training.selection: validation needs at least two validation pairs; raise "
                "build_manifest.validation_fraction, or set training.selection: last"
            )
        self._validation, self._settings = validation, settings
        self._score, self._epoch = -1.0, -1
        self._weights: dict[str, Tensor] = {}
        self._prompt: Tensor | None = None

    def consider(self, learner: Learner, epoch: int) -> dict[str, float]:
        """Score the weights as they are, keep them when they are the best so far, and return the score by name."""
        score = self._recall(learner)
        if score > self._score:
            self._score, self._epoch = score, epoch
            self._weights = {name: tensor.cpu().clone() for name, tensor in learner.model.state_dict().items()}
            self._prompt = None if learner.prompt is None else learner.prompt.detach().cpu().clone()
        return {METRIC: score}

    def restore(self, learner: Learner) -> None:
        """Put the best epoch's weights back into the model and its prompt."""
        if self._epoch < 0:
            return
        LOG.info("epoch %d is kept: %s = %.4f", self._epoch + 1, METRIC, self._score)
        learner.model.load_state_dict(self._weights)
        if isinstance(learner.prompt, nn.Parameter) and self._prompt is not None:
            with torch.no_grad():
                learner.prompt.copy_(self._prompt)

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"score": self._score, "epoch": self._epoch, "weights": self._weights, "prompt": self._prompt}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._score, self._epoch = state["score"], state["epoch"]
        self._weights, self._prompt = state["weights"], state["prompt"]

    @torch.no_grad()
    def _recall(self, learner: Learner) -> float:
        processes, size = learner.processes, min(self._settings.batch_size, len(self._validation))
        starts = range(0, len(self._validation) - size + 1, size)
        own = [EpochRows(0, list(range(start, start + size))) for start in starts[processes.rank :: processes.size]]
        hits = torch.zeros(2, dtype=torch.float64, device=processes.device)
        learner.model.eval()
        for batch in pair_loader(self._validation, own, self._settings.workers):
            parts = [self._encoded(learner, chunk) for chunk in batch.chunks(self._settings.chunk_size)]
            image_ND, text_ND = (torch.cat(part) for part in zip(*parts, strict=True))
            sim_NN, place_N = image_ND @ text_ND.T, torch.arange(size, device=processes.device)
            hits[0] += (sim_NN.argmax(dim=1) == place_N).sum() + (sim_NN.argmax(dim=0) == place_N).sum()
            hits[1] += 2 * size
        set_training_mode(learner.model, self._settings.freeze)
        found, asked = processes.sum(hits).tolist()
        return float(found / asked)

    def _encoded(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        device = learner.processes.device
        with precision_of(self._settings, device):
            image_ND = learner.model.encode_image(batch.images.to(device), normalize=True)
            text_ND = learner.model.encode_text(batch.tokens.to(device), normalize=True)
        return image_ND.float(), text_ND.float()
