"""The schema of the configuration: one frozen dataclass per section, the field names are the YAML keys.

`config/README.md` explains every key in words; `core/config.py` reads YAML into these classes and reports every
error at once.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from pipeline_steps.core.schema.data import BuildManifestConfig, DownloadImagesConfig, NoiseConfig
from pipeline_steps.core.schema.datasets import DatasetRow
from pipeline_steps.core.schema.evaluation import (
    CheckOverlapConfig,
    EvalProbeConfig,
    EvalRetrievalConfig,
    EvalZeroshotConfig,
    ExtractFeaturesConfig,
    MakeTablesConfig,
    PaperConfig,
    PrepareDatasetConfig,
    StrengthsConfig,
)
from pipeline_steps.core.schema.labels import InjectLabelNoiseConfig, SelectCleanConfig, TrainClassifierConfig
from pipeline_steps.core.schema.method import (
    ForgetSetConfig,
    LearnPromptConfig,
    MixtureConfig,
    NegativeTextConfig,
    SeparationConfig,
    SoftclipConfig,
    TrainBaselineConfig,
    TransportConfig,
    UnlearnConfig,
)
from pipeline_steps.core.schema.npc import BuildMemoryBankConfig, TrainNpcConfig
from pipeline_steps.core.schema.study import CompareExperimentsConfig
from pipeline_steps.core.schema.training import (
    FreezeConfig,
    ImportReferenceConfig,
    ModelConfig,
    TrainingConfig,
    TrainReferenceConfig,
)
from pipeline_steps.core.schema.values import Experiment, Name, PathText, Positive, Section, Seed

__all__ = [
    "BuildManifestConfig",
    "BuildMemoryBankConfig",
    "CheckOverlapConfig",
    "CompareExperimentsConfig",
    "Config",
    "DatasetRow",
    "DownloadImagesConfig",
    "EvalProbeConfig",
    "EvalRetrievalConfig",
    "EvalZeroshotConfig",
    "ExtractFeaturesConfig",
    "ForgetSetConfig",
    "FreezeConfig",
    "ImportReferenceConfig",
    "InjectLabelNoiseConfig",
    "LearnPromptConfig",
    "MakeTablesConfig",
    "MixtureConfig",
    "ModelConfig",
    "NegativeTextConfig",
    "NoiseConfig",
    "PaperConfig",
    "PrepareDatasetConfig",
    "SelectCleanConfig",
    "SeparationConfig",
    "ShowBillConfig",
    "SoftclipConfig",
    "StrengthsConfig",
    "TrackingConfig",
    "TrainBaselineConfig",
    "TrainClassifierConfig",
    "TrainNpcConfig",
    "TrainReferenceConfig",
    "TrainingConfig",
    "TransportConfig",
    "UnlearnConfig",
]


class TrackingConfig(Section, frozen=True):
    """Where MLflow keeps its runs. `uri: null` is SQLite under the results folder."""

    uri: str | None

    def __post_init__(self) -> None:
        """What stands in a configuration is shown, logged and kept with the results; a password must not be."""
        if self.uri is not None and urlsplit(self.uri).password:
            raise ValueError(
                "uri has a password, which would stand in logs: give it in the environment, for a server as "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, for PostgreSQL as PGPASSWORD or in ~/.pgpass"
            )


class ShowBillConfig(Section, frozen=True):
    """What a GPU sustains, TFLOP/s, for the bill at the end of a dry run on a cluster."""

    tflops_per_gpu: Positive


class Config(Section, frozen=True):
    """The whole file. A section named like a step is that step's. `preset` is the column of config/methods.yaml that
    the file is laid over.
    """

    experiment: Experiment
    preset: Literal["ours", "paper", "official"]
    results_dir: PathText
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)]
    methods: tuple[Name, ...]
    classifiers: tuple[Name, ...]
    tracking: TrackingConfig
    download_images: DownloadImagesConfig
    build_manifest: BuildManifestConfig
    model: ModelConfig
    import_reference: ImportReferenceConfig
    train_reference: TrainReferenceConfig
    learn_prompt: LearnPromptConfig
    unlearn: UnlearnConfig
    train_baseline: TrainBaselineConfig
    build_memory_bank: BuildMemoryBankConfig
    train_npc: TrainNpcConfig
    prepare_dataset: PrepareDatasetConfig
    extract_features: ExtractFeaturesConfig
    eval_zeroshot: EvalZeroshotConfig
    eval_probe: EvalProbeConfig
    eval_retrieval: EvalRetrievalConfig
    check_overlap: CheckOverlapConfig
    inject_label_noise: InjectLabelNoiseConfig
    select_clean: SelectCleanConfig
    train_classifier: TrainClassifierConfig
    make_tables: MakeTablesConfig
    compare_experiments: CompareExperimentsConfig
    show_bill: ShowBillConfig
