"""The schema of the configuration: one frozen dataclass per section, the field names are the YAML keys.

`config/README.md` explains every key in words; `core/config.py` reads YAML into these classes and reports every
error at once.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")


def _yaml_number(value: object) -> object:
    """YAML 1.1 reads `1e-4` as text; take text in number form, and whole numbers, as the float that was meant."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Number = Annotated[float, BeforeValidator(_yaml_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
OpenFraction = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@dataclass(frozen=True, config=STRICT)
class TrackingConfig:
    """Where MLflow keeps its runs. `uri: null` is SQLite under the results folder."""

    uri: str | None


@dataclass(frozen=True, config=STRICT)
class DownloadImagesConfig:
    """img2dataset over a URL list. `url_list: null` serves `embedded_parquet` on loopback, with faults."""

    url_list: str | None
    url_column: str
    caption_column: str
    embedded_parquet: str
    embedded_split: Literal["train"]
    fault_fraction: Fraction
    slow_seconds: Positive
    image_size: Count
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
    encode_format: Literal["jpg", "png", "webp"]
    min_image_size: Count
    max_image_pixels: Count
    timeout_seconds: Count
    retries: Natural
    processes: Count
    threads: Count
    samples_per_shard: Count
    min_success_fraction: Fraction


@dataclass(frozen=True, config=STRICT)
class NoiseConfig:
    """Noisy correspondence on purpose: a seeded share of the training captions shuffled among its pairs."""

    fraction: Fraction
    seed: Natural


@dataclass(frozen=True, config=STRICT)
class BuildManifestConfig:
    """Which pairs are kept, how they are split, and the injected noise."""

    source_csv: str | None
    image_root: str | None
    image_column: str
    caption_column: str
    drop_duplicate_images: Flag
    drop_duplicate_pairs: Flag
    drop_empty_captions: Flag
    max_caption_characters: Count
    long_captions: Literal["truncate", "drop"]
    max_bad_fraction: Fraction
    max_image_pixels: Count
    validation_fraction: OpenFraction
    noise: NoiseConfig


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """An open_clip architecture, by name or by a JSON file of open_clip's form."""

    architecture: str


@dataclass(frozen=True, config=STRICT)
class FreezeConfig:
    """What does not train: `text_tower` is all of the text encoder, `text_blocks` its first blocks from the input."""

    image_tower: Flag
    image_projection: Flag
    text_tower: Flag
    token_embedding: Flag
    positional_embedding: Flag
    text_blocks: Natural


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """One pass of the loop: AdamW, linear warm-up, cosine to zero over these epochs."""

    epochs: Natural
    batch_size: Annotated[int, Field(strict=True, ge=2)]
    lr: NonNegative
    weight_decay: NonNegative
    beta1: OpenFraction
    beta2: OpenFraction
    adam_epsilon: Positive
    warmup_fraction: Fraction
    grad_clip_norm: Positive | None
    precision: Literal["fp32", "bf16"]
    crop_scale_min: Annotated[Number, Field(gt=0, le=1)]
    workers: Natural
    freeze: FreezeConfig


@dataclass(frozen=True, config=STRICT)
class TrainReferenceConfig:
    """The reference checkpoint: trained here from scratch with the contrastive loss."""

    training: TrainingConfig


@dataclass(frozen=True, config=STRICT)
class ForgetSetConfig:
    """Eq. 2 and the share P of each batch that is taken for false positives."""

    fraction: OpenFraction
    direction: Literal["symmetric", "i2t"]


@dataclass(frozen=True, config=STRICT)
class SeparationConfig:
    """Eq. 3: the interval [alpha, beta] for the cosine of a caption and its hardest negative."""

    alpha: Annotated[Number, Field(ge=-1, lt=0)]
    beta: Annotated[Number, Field(gt=-1, lt=0)]

    def __post_init__(self) -> None:
        if self.alpha >= self.beta:
            raise ValueError(f"alpha ({self.alpha}) must be below beta ({self.beta}); official: -0.7 and -0.2")


@dataclass(frozen=True, config=STRICT)
class LearnPromptConfig:
    """Phase 1: the learnable negative prompt (Eqs. 3 to 6)."""

    prompt_vectors: Count
    prompt_init_std: Positive
    prompt_lr: Positive
    prompt_weight_decay: NonNegative
    lambda_text: NonNegative
    separation: SeparationConfig
    relation: Literal["paper", "official"]
    forget_set: ForgetSetConfig
    training: TrainingConfig


@dataclass(frozen=True, config=STRICT)
class TransportConfig:
    """Masked entropic optimal transport (Eqs. 8 and 9). `tolerance` bounds the relative error of both marginals."""

    epsilon: Positive
    normalize_cost: Flag
    max_iterations: Count
    tolerance: Positive


@dataclass(frozen=True, config=STRICT)
class UnlearnConfig:
    """Phase 2: transport-guided realignment (Eqs. 8 to 12)."""

    gamma: Fraction
    mix_order: Literal["paper", "official"]
    loss_reduction: Literal["sum", "mean"]
    separation_weight: NonNegative
    separation: SeparationConfig
    transport: TransportConfig
    forget_set: ForgetSetConfig
    training: TrainingConfig


@dataclass(frozen=True, config=STRICT)
class TrainBaselineConfig:
    """Baselines at NCU's compute: they run both phases' `training` sections with a loss of their own."""

    label_smoothing: Annotated[Number, Field(ge=0, lt=1)]
    ascent_weight: NonNegative
    forget_set: ForgetSetConfig


@dataclass(frozen=True, config=STRICT)
class ExtractFeaturesConfig:
    """Embeddings for all evaluations, computed once per checkpoint. `datasets` are rows of `dataset_table`."""

    dataset_table: str
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    batch_size: Count


@dataclass(frozen=True, config=STRICT)
class EvalZeroshotConfig:
    """Top-k accuracies to report beside mean per-class accuracy."""

    topk: Annotated[tuple[Count, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class EvalProbeConfig:
    """Logistic regression by L-BFGS; the L2 strength is chosen on a validation share of the training split."""

    inverse_l2: Annotated[tuple[Positive, ...], Field(min_length=1)]
    validation_fraction: OpenFraction
    max_iterations: Count


@dataclass(frozen=True, config=STRICT)
class EvalRetrievalConfig:
    """The K of recall@K."""

    recall_at: Annotated[tuple[Count, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class MakeTablesConfig:
    """Intervals of the tables and figures."""

    bootstrap_samples: Count
    confidence: OpenFraction


@dataclass(frozen=True, config=STRICT)
class DatasetRow:
    """A row of config/datasets.yaml: an evaluation set. `classes` maps a class name to categories or their prefixes.

    `{c}` in a template stands for the class name, as in clip-benchmark.
    """

    source: Literal["parquet"]
    path: str
    image_column: str
    category_column: str
    caption_column: str
    split_column: str
    test_split: str
    train_split: str
    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    classes: Annotated[dict[str, tuple[str, ...]], Field(min_length=2)]


@dataclass(frozen=True, config=STRICT)
class Config:
    """The whole file. A section named like a step is that step's."""

    experiment: Name
    results_dir: Annotated[str, Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    methods: Annotated[tuple[Name, ...], Field(min_length=1)]
    tracking: TrackingConfig
    download_images: DownloadImagesConfig
    build_manifest: BuildManifestConfig
    model: ModelConfig
    train_reference: TrainReferenceConfig
    learn_prompt: LearnPromptConfig
    unlearn: UnlearnConfig
    train_baseline: TrainBaselineConfig
    extract_features: ExtractFeaturesConfig
    eval_zeroshot: EvalZeroshotConfig
    eval_probe: EvalProbeConfig
    eval_retrieval: EvalRetrievalConfig
    make_tables: MakeTablesConfig
