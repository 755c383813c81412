"""Sections of NPC: its memory bank, and its training."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.method import MixtureConfig
from pipeline_steps.core.schema.training import TrainingConfig
from pipeline_steps.core.schema.values import Count, NonNegative, OpenFraction, Section


class BuildMemoryBankConfig(Section, frozen=True):
    """NPC's memory bank over the first `pairs` training pairs (null: all), whose losses are of batches of `batch_size`.

    `index` is auto, or a name of faiss's index factory such as Flat (exact) or HNSW32.
    """

    pairs: Count | None
    batch_size: Annotated[int, Meta(ge=2)]
    mixture: MixtureConfig
    clean_threshold: OpenFraction
    exclude_self: bool
    index: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_,()]+$")]


class TrainNpcConfig(Section, frozen=True):
    """NPC's training. The official code has bank_gradient false, weights batch and siamese official."""

    bank_gradient: bool
    bank_weight: NonNegative
    weights: Literal["per_sample", "batch"]
    siamese: Literal["stateless", "official"]
    training: TrainingConfig
