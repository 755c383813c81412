"""A tiny vision-transformer CLIP and made-up batches: what tests of the engine train."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from pipeline_steps.core.config import load_section, read_yaml, resolve
from pipeline_steps.core.schema import TrainingConfig, UnlearnConfig
from pipeline_steps.data.pairs import Batch
from pipeline_steps.methods.base import Objective
from pipeline_steps.methods.ncu.objectives import Unlearning
from pipeline_steps.models.clip import create_clip
from pipeline_steps.models.freeze import apply_freeze, set_training_mode
from pipeline_steps.models.prompt import new_prompt
from pipeline_steps.training.distributed import Processes
from pipeline_steps.training.optimizer import build_optimizer
from pipeline_steps.training.update import Learner
from tests.unit.paths import CONFIG

RAW = resolve(read_yaml([CONFIG]))
for _section in RAW.values():
    if "training" in _section:
        _section["training"]["workers"] = 0  # a process of its own costs more than these few pictures
MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TOKENIZERS_WORDS = MODEL["text_cfg"]["vocab_size"]
WORDS = 512  # that made-up batches draw from: the tokenizer's would be most of the work
END = WORDS - 1
TERMS = 4 * MODEL["text_cfg"]["width"]  # of the longest inner product, the second of a block's MLP


def settings(**changes: Any) -> TrainingConfig:
    """The training section of phase 2, with nothing frozen, for batches of 16."""
    training = load_section(RAW, "unlearn.training", TrainingConfig)
    free = replace(training.freeze, token_embedding=False, positional_embedding=False, text_blocks=0)
    return replace(training, **{"batch_size": 16, "lr": 1e-3, "freeze": free, **changes})


def unlearning(**changes: Any) -> Unlearning:
    """NCU's phase 2 with a forget set of a quarter."""
    section = load_section(RAW, "unlearn", UnlearnConfig)
    return Unlearning(replace(section, forget_set=replace(section.forget_set, fraction=0.25), **changes))


def architecture(folder: Path, *, words: int = TOKENIZERS_WORDS, **vision: Any) -> str:
    """The path of the tiny architecture's file in `folder`, with other keys of its image tower where they are given."""
    path = folder / "tiny_vit.json"
    text = MODEL["text_cfg"] | {"vocab_size": words}
    path.write_text(json.dumps(MODEL | {"vision_cfg": MODEL["vision_cfg"] | vision, "text_cfg": text}))
    return str(path)


@cache
def model(words: int = WORDS) -> Any:
    """The tiny architecture with its weights, made once: whoever changes it takes a copy."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return create_clip(architecture(Path(folder), words=words)).model


def learner(training: TrainingConfig, objective: Objective, processes: Processes, *, words: int = WORDS) -> Learner:
    """Fresh weights, always the same, with a prompt of two vectors."""
    own = copy.deepcopy(model(words)).to(processes.device)
    prompt = new_prompt(own, 2, 0.02, torch.Generator().manual_seed(0))
    prompt.data = prompt.data.to(processes.device)
    apply_freeze(own, training.freeze)
    set_training_mode(own, training.freeze)
    optimizer = build_optimizer(own, training, prompt, 1e-3, 0.1)
    scaler = GradScaler(processes.device.type, enabled=training.precision == "fp16")
    return Learner(own, optimizer, objective, processes, scaler, prompt)


def batch(step: int, size: int = 16) -> Batch:
    """Random pictures and captions of several lengths, by step."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(2, END - 1, (size, 12), generator=generator)
    tokens[:, 0] = END - 1
    for row in range(size):
        tokens[row, 3 + row % 6] = END
        tokens[row, 4 + row % 6 :] = 0
    images = torch.randn(size, 3, 16, 16, generator=generator)
    return Batch(torch.arange(size), images, tokens, tokens)


def banked_batch(step: int, size: int = 16) -> Batch:
    """The same with two further batches as its memory bank."""
    of_image, of_text = (dataclasses.replace(batch(1000 * part + step, size), negative_tokens=None) for part in (1, 2))
    return dataclasses.replace(batch(step, size), negative_tokens=None, bank=(of_image, of_text))


def nudge(weights: Iterable[Tensor], relative: float = 2.0**-24) -> None:
    """Move every weight by at most this share of itself, at random; by default by one rounding of float32."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            share = 2 * torch.rand(weight.shape, generator=generator) - 1
            weight.mul_(1 + relative * share.to(weight.device))


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of any tensor, as a share of that tensor's length."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - one).norm() / one.norm()) for name, one in expected.items() if one.any())


def any_order(of_one_rounding: float) -> float:
    """How far sums in another order may take a result, from how far one rounding of every weight (`nudge`) took it.

    An inner product of k terms, summed in whatever order, is the exact one of factors that are off by about sqrt(k)
    roundings (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"); k is at most TERMS. The
    result itself is rounded too.
    """
    return math.sqrt(TERMS) * max(of_one_rounding, 2.0**-24)
