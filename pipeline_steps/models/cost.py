"""What a model costs, counted on tensors without data: parameters, operations, memory. Nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_steps.core.schema import ExtractFeaturesConfig, TrainingConfig
from pipeline_steps.models.clip import create_clip

_FLOAT = 4
_PROCESS_MIB = 6_000  # Python, torch and the GPU's runtime, as seen; not a property of the model
_WORKER_MIB = 700
_PREFETCHED = 2  # batches a worker of torch's DataLoader holds ready
_STATE_COPIES = 5  # weights, gradients and AdamW's two moments, and the copy of a state that is written


@dataclass(frozen=True)
class ModelCost:
    """Parameters, the side of a picture in pixels, the width of an embedding, and operations of one picture and of one
    caption going forward. A multiply-add is two operations.
    """

    parameters: int
    image_size: int
    embedding_width: int
    image_operations: float
    text_operations: float


@cache
def model_cost(architecture: str) -> ModelCost:
    """Count an architecture with torch's FlopCounterMode. Raises PipelineError for one that open_clip does not know."""
    model = create_clip(architecture).model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = model.to("meta").eval()
    size = model.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    with FlopCounterMode(display=False) as image:
        embedding = model.encode_image(torch.empty(1, 3, side, side, device="meta"))
    with FlopCounterMode(display=False) as text:
        model.encode_text(torch.zeros(1, model.context_length, dtype=torch.long, device="meta"))
    operations = (float(image.get_total_flops()), float(text.get_total_flops()))
    return ModelCost(parameters, side, embedding.shape[-1], *operations)


def training_operations(training: TrainingConfig, architecture: str, pairs: int, texts: int) -> float:
    """Operations of one phase on `pairs` pairs with `texts` captions encoded per pair.

    A backward pass counts twice its forward pass; what is frozen has none; chunks add a forward pass. Loss, optimiser
    and data loading are not in it.
    """
    cost = model_cost(architecture)
    image_trains = not (training.freeze.image_tower and training.freeze.image_projection)
    passes = 4 if training.chunk_size else 3
    image_passes = passes if image_trains and not training.freeze.image_tower else 1
    per_pair = cost.image_operations * image_passes + texts * cost.text_operations * passes
    return training.epochs * min(pairs, training.pairs or pairs) * per_pair


def training_memory_mib(training: TrainingConfig, architecture: str, processes: int) -> int:
    """An upper guess of the memory, beside the GPUs', that a machine needs to train with so many processes.

    The model, its optimiser and a state that is being written may all be there at once.
    """
    state = model_cost(architecture).parameters * _FLOAT * _STATE_COPIES
    return _loading_mib(architecture, training.batch_size, training.workers, processes) + round(state / 2**20)


def features_memory_mib(settings: ExtractFeaturesConfig, architecture: str, checkpoints: int) -> int:
    """An upper guess of the memory, beside the GPU's, that a job needs to embed sets with so many checkpoints."""
    weights = model_cost(architecture).parameters * _FLOAT * checkpoints
    return _loading_mib(architecture, settings.batch_size, settings.workers, 1) + round(weights / 2**20)


def _loading_mib(architecture: str, batch_size: int, workers: int, processes: int) -> int:
    """Each process has its runtime and its loader's workers, which together hold batches of float pictures ready."""
    batch = batch_size * 3 * model_cost(architecture).image_size ** 2 * _FLOAT
    ready = batch * max(1, _PREFETCHED * workers)
    return processes * (_PROCESS_MIB + workers * _WORKER_MIB) + round(ready / 2**20)
