"""Sections of evaluation sets, features, evaluations and tables."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.values import DISTINCT, Count, Name, OpenFraction, PathText, Section

Strength = Annotated[float, Meta(ge=1e-12, le=1e12)]
Tap = Literal["projected", "penultimate"]


class PrepareDatasetConfig(Section, frozen=True):
    """Evaluation sets: `datasets` are rows of `table`; `{root}` in a row's paths stands for `root`."""

    table: PathText
    datasets: Annotated[tuple[Name, ...], Meta(min_length=1), DISTINCT]
    root: PathText


class ExtractFeaturesConfig(Section, frozen=True):
    """Embeddings for all evaluations, once per checkpoint, set and split; `taps`: what the image tower is read at."""

    batch_size: Count
    workers: Annotated[int, Meta(ge=0)]
    taps: Annotated[tuple[Tap, ...], Meta(min_length=1), DISTINCT]
    cache: PathText | None
    checkpoints_per_job: Count


class EvalZeroshotConfig(Section, frozen=True):
    """Top-k accuracies to report beside mean per-class accuracy."""

    topk: Annotated[tuple[Count, ...], Meta(min_length=1)]


class StrengthsConfig(Section, frozen=True):
    """Strengths C from `lowest` to `highest`, `per_decade` of them to a factor of ten.

    `start` of them, evenly spaced, are tried first; then the spacing around the best is halved until all are reached.
    """

    lowest: Strength
    highest: Strength
    per_decade: Count
    start: Count

    @property
    def count(self) -> int:
        """How many strengths there are."""
        return 1 + round(self.per_decade * math.log10(self.highest / self.lowest))

    def at(self, place: int) -> float:
        """The strength at a place, 0 to count - 1, ascending."""
        return float(f"{self.lowest * 10 ** (place / self.per_decade):.6g}")

    def __post_init__(self) -> None:
        steps = self.per_decade * math.log10(self.highest / self.lowest)
        if steps < 0 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"from lowest = {self.lowest:g} to highest = {self.highest:g} are {steps:.3g} steps at per_decade = "
                f"{self.per_decade}; allowed: a whole number of them, or none"
            )
        if (self.start == 1) != (round(steps) == 0) or (self.start > 1 and round(steps) % (self.start - 1)):
            raise ValueError(
                f"start = {self.start} does not divide {round(steps)} steps evenly; allowed: 1 where lowest is "
                "highest, else one more than a divisor of the steps"
            )


class EvalProbeConfig(Section, frozen=True):
    """Logistic regression by L-BFGS; the L2 strength is chosen on a validation split, never on test."""

    tap: Tap
    normalize: bool
    inverse_l2: StrengthsConfig
    validation_fraction: OpenFraction
    max_iterations: Count


class EvalRetrievalConfig(Section, frozen=True):
    """The K of recall@K."""

    recall_at: Annotated[tuple[Count, ...], Meta(min_length=1)]


class CheckOverlapConfig(Section, frozen=True):
    """Pictures of training and evaluation that are equal, or whose 64-bit perceptual hashes differ in few bits."""

    max_distance_bits: Annotated[int, Meta(ge=0, le=15)]


class PaperConfig(Section, frozen=True):
    """Which of the paper's experiments this is, so that its values stand beside ours."""

    corpus: Literal["CC3M", "CC12M", "YFCC15M-R"]
    architecture: Literal["ViT-B/16", "ViT-B/32"]


class MakeTablesConfig(Section, frozen=True):
    """Intervals of the tables and figures; `averages` maps a name to the sets that it is the plain mean of."""

    bootstrap_samples: Count
    confidence: OpenFraction
    class_metric: Literal["by_set", "top1"]
    averages: dict[str, Annotated[tuple[Name, ...], Meta(min_length=1), DISTINCT]]
    paper: PaperConfig | None
