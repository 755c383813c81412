"""Sections of features, evaluations and tables."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline_steps.core.schema.values import STRICT, Count, Name, OpenFraction, Positive


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
