"""Sections of the method's two phases and of its baselines. config/methods.yaml holds the columns of their values."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pipeline_steps.core.schema.training import TrainingConfig
from pipeline_steps.core.schema.values import Count, Fraction, NonNegative, Number, OpenFraction, Positive, Section


class MixtureConfig(Section, frozen=True):
    """A Gaussian mixture of two components by expectation maximisation, as scikit-learn has it.

    `tolerance` is of the mean log-likelihood, `covariance_floor` is added to each variance.
    """

    max_iterations: Count
    tolerance: Positive
    covariance_floor: Positive


class ForgetSetConfig(Section, frozen=True):
    """Eq. 2 and the share P of each batch that is taken for false positives.

    `selection` says by which score: the confidence of Eq. 2; at random; or, as the neighbouring systems do, by the
    probability of a low loss in a `mixture` (NPC), or by the consistency of a caption with the best one (CLIPCleaner).
    """

    fraction: OpenFraction
    direction: Literal["symmetric", "i2t"]
    softmax: Literal["stable", "official"]
    selection: Literal["confidence", "random", "small_loss", "consistency"]
    mixture: MixtureConfig


class SeparationConfig(Section, frozen=True):
    """Eq. 3: the interval [alpha, beta] for the cosine of a caption and its hardest negative.

    `kind: l2` is ablation V2: the plain maximal L2 distance in place of L_sep and L_rel.
    """

    kind: Literal["interval", "l2"]
    alpha: Annotated[Number, Meta(ge=-1, lt=0)]
    beta: Annotated[Number, Meta(gt=-1, lt=0)]

    def __post_init__(self) -> None:
        if self.alpha >= self.beta:
            raise ValueError(f"alpha ({self.alpha}) must be below beta ({self.beta}); official: -0.7 and -0.2")


class NegativeTextConfig(Section, frozen=True):
    """What becomes t^Neg: the caption under the learned prompt, a textual negative prefix and the caption (V1), or
    another pair's caption (a control); `augment: eda` perturbs the caption first, as the official code does.
    """

    source: Literal["prompt", "prefix", "random_caption"]
    augment: Literal["none", "eda"]


class LearnPromptConfig(Section, frozen=True):
    """Phase 1: the learnable negative prompt (Eqs. 3 to 6)."""

    prompt_vectors: Count
    prompt_init_std: Positive
    prompt_lr: Positive
    prompt_weight_decay: NonNegative
    lambda_text: NonNegative
    separation: SeparationConfig
    relation: Literal["paper", "official"]
    matching_bias: Number
    negative_text: NegativeTextConfig
    forget_set: ForgetSetConfig
    training: TrainingConfig


class TransportConfig(Section, frozen=True):
    """Masked entropic optimal transport (Eqs. 8 and 9).

    `stopping: marginals`: `tolerance` bounds the relative error of both marginals; `potentials`: it bounds the summed
    change of the row potentials between plain iterations, as in the official code.
    """

    epsilon: Positive
    normalize_cost: bool
    solves: Literal["one", "two"]
    column_marginal: Literal["uniform", "forget_share"]
    stopping: Literal["marginals", "potentials"]
    max_iterations: Count
    tolerance: Positive


class UnlearnConfig(Section, frozen=True):
    """Phase 2: transport-guided realignment (Eqs. 8 to 12)."""

    gamma: Fraction
    realign: Literal["both", "false_negatives", "false_positives"]
    mix_order: Literal["paper", "official"]
    text_to_image_target: Literal["distribution", "official"]
    loss_reduction: Literal["sum", "mean"]
    temperature: Literal["logit_scale", "none"]
    separation_weight: NonNegative
    separation_over: Literal["all", "retained"]
    separation: SeparationConfig
    transport: TransportConfig
    negative_text: NegativeTextConfig
    forget_set: ForgetSetConfig
    training: TrainingConfig


class SoftclipConfig(Section, frozen=True):
    """Softened targets: `weight` is the share of the intra-modal similarity in the target, at `temperature`."""

    weight: Fraction
    temperature: Positive


class TrainBaselineConfig(Section, frozen=True):
    """Baselines at NCU's compute: they run both phases' `training` sections with a loss of their own."""

    label_smoothing: Annotated[Number, Meta(ge=0, lt=1)]
    ascent_weight: NonNegative
    softclip: SoftclipConfig
    forget_set: ForgetSetConfig
