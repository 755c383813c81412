"""Dry runs of the full reproductions, with their source data in place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline_steps.core.config import load_config, read_yaml
from tests.unit.paths import REPOSITORY
from tests.workflow.snakemake_runs import planned_jobs, snakemake, workspace

PAPER = sorted((REPOSITORY / "config" / "paper").glob("*.yaml"))
BASELINES = {"continued", "gradient_ascent", "softclip", "filter_continue"}
CONTROLS = {"ncu_no_transport", "ncu_random_forget_set", "ncu_random_negative"}
ABLATIONS = {"ncu_v1", "ncu_v2", "ncu_v3", "ncu_v4"}


def _sources(config: Path) -> list[Path]:
    found = load_config(read_yaml([REPOSITORY / "config" / "config.yaml", config]))
    named = (found.download_images.url_list, found.build_manifest.source_shards, found.import_reference.weights)
    return [Path(name) for name in named if name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = workspace(tmp_path_factory.mktemp("paper") / "project")
    for source in {path for config in PAPER for path in _sources(config)}:
        (made / source).parent.mkdir(parents=True, exist_ok=True)
        (made / source).touch() if source.suffix else (made / source).mkdir()
    return made


def test_there_is_one_for_every_model_and_corpus_of_the_paper() -> None:
    assert [path.stem for path in PAPER] == [
        "cc12m_vitb16", "cc12m_vitb32", "cc3m_vitb16", "cc3m_vitb32", "yfcc15m_r_vitb32",
    ]  # fmt: skip


@pytest.mark.parametrize("config", PAPER, ids=lambda path: path.stem)
def test_every_stage_of_a_full_reproduction_is_planned(folder: Path, config: Path) -> None:
    settings = load_config(read_yaml([REPOSITORY / "config" / "config.yaml", config]))
    methods = set(settings.methods)
    assert methods >= BASELINES | CONTROLS | {"ncu"} | (ABLATIONS if config.stem.startswith("cc3m") else set())
    assert settings.unlearn.training.batch_size == settings.learn_prompt.training.batch_size == 2048
    assert (settings.learn_prompt.training.epochs, settings.unlearn.training.epochs) == (2, 8)
    jobs = planned_jobs(folder, configfiles=(f"config/paper/{config.name}",))
    reference = "import_reference_job" if settings.import_reference.weights else "train_reference_job"
    parts = {"download_images": 1, "download_images_job": settings.download_images.jobs}
    source = {} if settings.build_manifest.source_shards else parts
    unlearned = [method for method in methods if method.startswith("ncu")]
    prompts = jobs.pop("learn_prompt_job")
    assert 0 < prompts < len(unlearned)  # methods with the same phase 1 share it
    assert jobs == source | {
        "build_manifest": 1, reference: 1, "unlearn_job": len(unlearned), "train_baseline_job": len(BASELINES),
        "make_tables": 1, "check_overlap": 1, "prepare_dataset_job": len(settings.prepare_dataset.datasets),
        "extract_features_job": math.ceil((len(methods) + 1) / settings.extract_features.checkpoints_per_job),
    } | dict.fromkeys(("eval_zeroshot_job", "eval_probe_job", "eval_retrieval_job"), len(methods) + 1)  # fmt: skip


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    ran = snakemake(workspace(tmp_path / "project"), "--dry-run", configfiles=("config/paper/cc3m_vitb16.yaml",))
    assert ran.returncode != 0
    assert "Train_GCC-training.tsv" in ran.stdout or "cc3m_clip.pt" in ran.stdout
