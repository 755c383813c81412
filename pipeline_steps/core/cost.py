"""What work with a model takes, operations and memory: arithmetic over what `models/cost.py` counted of the model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import write_json
from pipeline_steps.core.schema import ExtractFeaturesConfig, TrainingConfig

FLOAT = 4
_PROCESS_MIB = 6_000  # Python, torch and the GPU's runtime
_WORKER_MIB = 700
_PREFETCHED = 2  # batches a worker of torch's DataLoader holds ready
_MANIFEST_ROW_BYTES = 100  # of pairs.parquet at least
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
def counted(architecture: str) -> ModelCost:
    """Have an architecture counted in a process of its own, so that the caller need not load torch.

    What was counted once is kept in the user's cache. Raises PipelineError for one that open_clip does not know
    or cannot build.
    """
    known = _cache_file(architecture)
    with suppress(OSError, ValueError, TypeError):
        return ModelCost(**json.loads(known.read_text(encoding="utf-8")))
    command = [sys.executable, "-m", "pipeline_steps.models.cost", architecture]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        told = ran.stderr.strip()[-500:]
        raise PipelineError(told if "model.architecture" in told else f"model.architecture = {architecture!r}: {told}")
    found = ModelCost(**json.loads(ran.stdout.splitlines()[-1]))
    with suppress(OSError, PipelineError):
        write_json(known, asdict(found))
    return found


def cache_folder() -> Path:
    """This project's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncu_pipeline"


def _cache_file(architecture: str) -> Path:
    """Named by the architecture (of a file, its content), open_clip's version, and the code that counts."""
    path = Path(architecture)
    content = path.read_bytes() if path.is_file() else architecture.encode()
    code = (Path(__file__).parents[1] / "models" / "cost.py").read_bytes()
    key = hashlib.sha256(b"\0".join([version("open_clip_torch").encode(), code, content])).hexdigest()
    return cache_folder() / f"{key}.json"


def training_operations(training: TrainingConfig, model: ModelCost, pairs: int, texts: int) -> float:
    """Operations of one phase on `pairs` pairs with `texts` captions encoded per pair.

    A backward pass counts twice its forward pass; what is frozen has none; chunks add a forward pass. Loss, optimiser
    and data loading are not in it.
    """
    image_trains = not (training.freeze.image_tower and training.freeze.image_projection)
    passes = 4 if training.chunk_size else 3
    image_passes = passes if image_trains and not training.freeze.image_tower else 1
    per_pair = model.image_operations * image_passes + texts * model.text_operations * passes
    return training.epochs * min(pairs, training.pairs or pairs) * per_pair


def npc_operations(training: TrainingConfig, model: ModelCost, pairs: int) -> float:
    """Operations of NPC: its pairs go forward once and back twice, their bank's go forward and back, and once more
    forward through the siamese copy. A pass back counts as two forward.
    """
    return training_operations(training, model, pairs, 1) * (5 + 2 * 3 + 2) / 3


def training_memory_mib(training: TrainingConfig, model: ModelCost, threads: int) -> int:
    """An upper guess of the memory, beside the GPUs', that a machine needs to train with so many threads.

    There are as many processes as find threads for their loader's workers and two more. The model, its optimiser and a
    state that is being written may all be there at once.
    """
    processes = max(1, threads // (training.workers + 2))
    state = model.parameters * FLOAT * _STATE_COPIES
    return _loading_mib(model, training.batch_size, training.workers, processes) + round(state / 2**20)


def features_memory_mib(settings: ExtractFeaturesConfig, model: ModelCost, checkpoints: int) -> int:
    """An upper guess of the memory, beside the GPU's, that a job needs to embed sets with so many checkpoints."""
    weights = model.parameters * FLOAT * checkpoints
    return _loading_mib(model, settings.batch_size, settings.workers, 1) + round(weights / 2**20)


def bank_memory_mib(settings: ExtractFeaturesConfig, model: ModelCost, manifest_mib: float) -> int:
    """An upper guess of the memory that a memory bank needs: features, and of every pair two embeddings, twice over."""
    pairs = manifest_mib * 2**20 / _MANIFEST_ROW_BYTES
    embeddings = 4 * pairs * model.embedding_width * FLOAT
    return features_memory_mib(settings, model, 1) + round(embeddings / 2**20)


def _loading_mib(model: ModelCost, batch_size: int, workers: int, processes: int) -> int:
    """Each process has its runtime and its loader's workers, which together hold batches of float pictures ready."""
    ready = batch_size * 3 * model.image_size**2 * FLOAT * max(1, _PREFETCHED * workers)
    return processes * (_PROCESS_MIB + workers * _WORKER_MIB) + round(ready / 2**20)
