"""Sections of learning with noisy labels: the noise, CLIPCleaner's selection, and the classifier trained on it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.method import MixtureConfig
from pipeline_steps.core.schema.values import (
    Count,
    Fraction,
    Name,
    Natural,
    NonNegative,
    Number,
    OpenFraction,
    PathText,
    Positive,
    Section,
)

Rule = Literal["zeroshot_loss", "zeroshot_consistency", "regression_loss", "regression_consistency", "confidence"]


class InjectLabelNoiseConfig(Section, frozen=True):
    """Noise in the training labels of evaluation set `dataset`, of which `pictures` are used (null: all).

    `symmetric`: `fraction` of the labels are drawn anew, from all classes or from the others (`symmetric_draws`);
    `asymmetric`: they go where `transitions` (class name to class name; null: the next class) says; `instance`: which
    and where depends on the picture; `file`: as a CSV with the columns label, label_noisy has it; `own`: as they are.
    """

    dataset: Name | None
    pictures: Count | None
    kind: Literal["symmetric", "asymmetric", "instance", "file", "own"]
    fraction: Fraction
    seed: Natural
    symmetric_draws: Literal["all_classes", "other_classes"]
    transitions: dict[str, str] | None
    file: PathText | None

    def __post_init__(self) -> None:
        if (self.kind == "file") != (self.file is not None):
            raise ValueError(
                f"kind = {self.kind!r} and file = {self.file!r}: a file goes with kind: file, and with it alone"
            )


class SelectCleanConfig(Section, frozen=True):
    """CLIPCleaner: the samples whose label `agree` of the `rules` take for clean.

    `prompt` has {c} for the class and {feature} for each of its phrases in `class_features` (a YAML file; null: one
    prompt without). `share` keeps that share of the samples, by the score of one rule, in place of its threshold.
    """

    prompt: Annotated[str, Meta(pattern=r"\{c\}")]
    class_features: PathText | None
    pooling: Literal["mean", "sum"]
    temperature: Positive | None
    regression: Literal["out_of_fold", "in_sample"]
    folds: Annotated[int, Meta(ge=2)]
    inverse_l2: Positive
    max_iterations: Count
    mixture: MixtureConfig
    theta_gmm: OpenFraction
    theta_consistency: Annotated[Number, Meta(gt=0, le=1)]
    small_classes: Literal["keep", "drop"]
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1)]
    agree: Count
    share: OpenFraction | None
    empty_classes: Literal["best", "worst", "leave"]
    confidence_batch: Annotated[int, Meta(ge=2)]

    def __post_init__(self) -> None:
        if len(set(self.rules)) < len(self.rules) or self.agree > len(self.rules):
            raise ValueError(
                f"agree = {self.agree} of {len(self.rules)} rules; allowed: at most as many, each named once"
            )
        if "confidence" in self.rules and self.share is None:
            raise ValueError("the rule confidence has no threshold of its own; allowed: with share, as the only rule")
        if self.share is not None and len(self.rules) > 1:
            raise ValueError(
                f"share = {self.share} needs one rule to order samples by, and {len(self.rules)} are named"
            )


class TrainClassifierConfig(Section, frozen=True):
    """CLIPCleaner's classifier: mixup on class-balanced draws of the selection, which MixFix widens after every epoch.

    `labels`: selected, or for comparison all of them, or those that are true. `small_stem`: a convolution of stride 1
    and no pooling, for pictures of 32 pixels.
    """

    labels: Literal["selected", "all", "true"]
    architecture: str
    small_stem: bool
    image_size: Count
    mean: tuple[Number, Number, Number]
    std: tuple[Positive, Positive, Positive]
    crop_padding: Natural
    policy: Literal["none", "cifar10", "imagenet", "svhn"]
    epochs: Count
    batch_size: Annotated[int, Meta(ge=2)]
    lr: Positive
    momentum: Fraction
    weight_decay: NonNegative
    milestones: tuple[Natural, ...]
    lr_decay: Positive
    mixup_beta: Positive
    mixfix: bool
    theta_absorb: Fraction
    theta_relabel: Fraction
    workers: Natural
