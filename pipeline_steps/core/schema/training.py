"""Sections of the model and of one pass of the training loop."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.values import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Number,
    OpenFraction,
    PathText,
    Positive,
    Section,
    Sha256,
)


class ModelConfig(Section, frozen=True):
    """An open_clip architecture, by name or by a JSON file of open_clip's form."""

    architecture: PathText


class FreezeConfig(Section, frozen=True):
    """What does not train: `text_tower` is all of the text encoder, `text_blocks` its first blocks from the input."""

    image_tower: bool
    image_projection: bool
    text_tower: bool
    token_embedding: bool
    positional_embedding: bool
    text_blocks: Natural


class TrainingConfig(Section, frozen=True):
    """One pass of the loop: AdamW, linear warm-up, cosine to zero over these epochs.

    `pairs` trains on the first so many training pairs of the manifest, whose order is random and fixed, so that
    subsets nest. `chunk_size` bounds the pairs per process that are in a tower at once; it changes memory and time,
    not the result (but for random layers, which draw other numbers). `schedule_offset_epochs` and
    `schedule_total_epochs` place this phase inside a longer schedule. `schedule_unit: pairs` counts NPC's way.
    `weight_storage: fp16` keeps the weights of a half-precision CLIP in that, and steps them in it.
    """

    epochs: Natural
    pairs: Count | None
    batch_size: Annotated[int, Meta(ge=2)]
    chunk_size: Count | None
    lr: NonNegative
    weight_decay: NonNegative
    weight_decay_on: Literal["matrices", "official_names", "all"]
    beta1: OpenFraction
    beta2: OpenFraction
    adam_epsilon: Positive
    warmup_fraction: Fraction
    schedule_offset_epochs: Natural
    schedule_total_epochs: Count | None
    schedule_unit: Literal["batches", "pairs"]
    grad_clip_norm: Positive | None
    max_logit_scale: Positive | None
    precision: Literal["fp32", "bf16", "fp16"]
    weight_storage: Literal["fp32", "fp16"]
    on_nonfinite: Literal["stop", "skip"]
    gather: Literal["exact", "official"]
    shuffle: Literal["every_epoch", "once"]
    truncation: Literal["keep_end", "official"]
    selection: Literal["last", "validation"]
    crop_scale_min: Annotated[Number, Meta(gt=0, le=1)]
    workers: Natural
    save_minutes: NonNegative
    freeze: FreezeConfig

    def __post_init__(self) -> None:
        """A phase starts within the schedule that it is placed in."""
        total = self.schedule_total_epochs or self.epochs
        if self.schedule_offset_epochs and self.schedule_offset_epochs >= total:
            raise ValueError(
                f"schedule_offset_epochs = {self.schedule_offset_epochs} is not below the {total} epochs of the "
                "schedule (schedule_total_epochs, or epochs where that is null)"
            )


class TrainReferenceConfig(Section, frozen=True):
    """The reference checkpoint: trained here from scratch with the contrastive loss."""

    training: TrainingConfig


class ImportReferenceConfig(Section, frozen=True):
    """A reference checkpoint from elsewhere instead of `train_reference`; `weights: null` trains one.

    `weights` is a file, or an open_clip pretrained tag for `format: tag`. `sha256` is that of the file.
    """

    weights: PathText | None
    format: Literal["tag", "open_clip", "openai", "laclip", "ncu"]
    sha256: Sha256 | None
