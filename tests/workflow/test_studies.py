"""Studies: what they would run, and one of two experiments run for real with the smoke configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from msgspec.structs import asdict

from pipeline_steps.core.config import load_config, read_yaml
from tests.unit.paths import REPOSITORY
from tests.workflow.snakemake_runs import planned_jobs, snakemake, warm_environment, workspace

AS_CODED = REPOSITORY / "config" / "studies" / "npc_as_coded.yaml"  # goes over another
STUDIES = sorted({*(REPOSITORY / "config" / "studies").glob("*.yaml")} - {AS_CODED})
OVER = """
experiment: two
methods: [continued, npc]
train_reference: {training: {epochs: 1, pairs: 512}}
learn_prompt: {training: {pairs: 512}}
unlearn: {training: {pairs: 512}}
build_memory_bank: {clean_threshold: 0.5, batch_size: 128, pairs: 512}
train_npc: {training: {epochs: 1, batch_size: 128, pairs: 512}}
compare_experiments:
  over:
    noise00: {build_manifest: {noise: {fraction: 0.0}}}
    noise40: {build_manifest: {noise: {fraction: 0.4}}}
"""
SMALL = """
experiment: smoke
methods: [npc]
train_reference: {training: {epochs: 1, pairs: 256}}
build_memory_bank: {clean_threshold: 0.5, batch_size: 32, pairs: 256}
train_npc: {training: {epochs: 1, batch_size: 32, pairs: 256}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = workspace(tmp_path_factory.mktemp("studies") / "project")
    (made / "study.yaml").write_text(OVER)
    return made


@pytest.mark.parametrize("config", STUDIES, ids=lambda path: path.stem)
def test_every_experiment_of_a_study_is_planned(folder: Path, config: Path) -> None:
    settings = load_config(read_yaml([REPOSITORY / "config" / "config.yaml", config]))
    manifest = settings.build_manifest
    for source in (manifest.source_csv, manifest.source_shards, manifest.source_scan):
        if source:
            (folder / source).mkdir(parents=True, exist_ok=True)
    experiments = len(settings.compare_experiments.over or {None: {}})
    jobs = planned_jobs(folder, configfiles=(f"config/studies/{config.name}",))
    trainings = experiments * len(settings.seeds)
    assert jobs["eval_retrieval_job"] == trainings * (len(settings.methods) + 1)
    banks = trainings * ("npc" in settings.methods)
    assert jobs.get("train_npc_job", 0) == jobs.get("build_memory_bank_job", 0) == banks
    classifiers = trainings * len(settings.classifiers)
    assert jobs.get("train_classifier_job", 0) == jobs.get("select_clean_job", 0) == classifiers
    rules = trainings * sum(name.startswith("ncu") for name in settings.methods)
    assert jobs.get("unlearn_job", 0) == rules
    assert banks + classifiers + rules > 0


@pytest.mark.parametrize("over", [(), (AS_CODED,)], ids=["as stated", "as coded"])
@pytest.mark.parametrize("name", ["npc_mscoco", "npc_flickr30k", "npc_cc120k"])
def test_npcs_baseline_is_trained_as_npc_is(name: str, over: tuple[Path, ...]) -> None:
    files = [REPOSITORY / "config" / "config.yaml", REPOSITORY / "config" / "studies" / f"{name}.yaml", *over]
    settings = load_config(read_yaml(files))
    baseline, npc = asdict(settings.unlearn.training), asdict(settings.train_npc.training)
    assert {key for key in npc if npc[key] != baseline[key]} == ({"lr", "grad_clip_norm"} if over else {"lr"})
    assert settings.learn_prompt.training.epochs == 0


def test_a_study_shares_its_data_and_doubles_the_rest(folder: Path) -> None:
    files = ("config/smoke.yaml", "study.yaml")
    jobs = planned_jobs(folder, configfiles=files)
    assert jobs == {
        "download_images": 1, "prepare_dataset_job": 1, "build_manifest_job": 2, "check_overlap_job": 2,
        "train_reference_job": 2, "build_memory_bank_job": 2, "train_npc_job": 2, "train_baseline_job": 2,
        "extract_features_job": 2, "eval_zeroshot_job": 6, "eval_probe_job": 6, "eval_retrieval_job": 6,
        "make_tables_job": 2, "compare_experiments": 1,
    }  # fmt: skip
    manifests = {"download_images": 1, "build_manifest_job": 2, "build_manifest": 1}
    assert planned_jobs(folder, "build_manifest", configfiles=files) == manifests
    assert planned_jobs(folder, "train_npc", configfiles=files)["train_npc_job"] == 2


def test_a_study_of_classifiers_has_their_stages_as_targets(folder: Path) -> None:
    (folder / "labels.yaml").write_text("classifiers: [all_labels]\ninject_label_noise: {dataset: openclipart}\n")
    files = ("config/smoke.yaml", "study.yaml", "labels.yaml")
    assert planned_jobs(folder, "inject_label_noise", configfiles=files)["inject_label_noise_job"] == 2
    assert planned_jobs(folder, "make_label_tables", configfiles=files)["make_label_tables_job"] == 2


def test_npc_and_its_bank_are_stages(folder: Path) -> None:
    (folder / "npc.yaml").write_text("methods: [npc]\n")
    files = ("config/smoke.yaml", "npc.yaml")
    before = {"download_images": 1, "build_manifest": 1, "train_reference_job": 1, "build_memory_bank_job": 1}
    assert planned_jobs(folder, "build_memory_bank", configfiles=files) == before
    assert planned_jobs(folder, "train_npc", configfiles=files) == before | {"train_npc_job": 1}


def test_errors_name_the_experiment(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(
        "compare_experiments: {over: {a: {build_manifest: {noise: {fraction: 2}}}, b: {unlearn: {gamma: 0}}}}\n"
    )
    ran = snakemake(folder, "--dry-run", configfiles=("config/smoke.yaml", "wrong.yaml"))
    assert ran.returncode != 0
    assert "compare_experiments.over.a: build_manifest.noise.fraction = 2" in ran.stdout
    assert "compare_experiments.over.b: unlearn is the same in all of a study" in ran.stdout


def test_a_study_of_two_experiments_runs_to_its_tables(copied: Callable[..., Path]) -> None:
    folder = copied("study")
    (folder / "study.yaml").write_text(OVER)
    (folder / "small.yaml").write_text(SMALL)
    files = ("config/smoke.yaml", "study.yaml", "small.yaml")
    ran = snakemake(folder, configfiles=files, environment=warm_environment())
    assert ran.returncode == 0, ran.stdout[-4000:]
    scores = pd.read_csv(folder / "results" / "smoke" / "tables" / "scores.csv")
    assert set(scores["place"]) == {0.0, 0.4}
    assert set(scores["method"]) == {"reference", "npc"}
    own = pd.read_csv(folder / "results" / "smoke_noise40" / "tables" / "retrieval.csv")
    picked = scores[scores["entry"].eq("noise40") & scores["stage"].eq("eval_retrieval")]
    assert picked["mean"].tolist() == own["mean"].tolist()
    assert (folder / "results" / "smoke" / "figures" / "scores_over_axis.png").stat().st_size > 10_000
    bank = pd.read_parquet(folder / "results/smoke_noise40/build_memory_bank/npc/seed0/bank.parquet")
    history = pd.read_parquet(folder / "results/smoke_noise40/train_npc/npc/seed0/history.parquet")
    assert len(bank) == 256
    assert history["name"].eq("npc/weight").sum() == len(bank) // 32
    assert "Nothing to be done" in snakemake(folder, "--dry-run", configfiles=files).stdout
