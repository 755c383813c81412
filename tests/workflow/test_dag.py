"""Dry runs: what each target and each edited key would run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.paths import REPOSITORY
from tests.workflow.snakemake_runs import planned_jobs, snakemake, workspace

DATA = {"download_images": 1, "build_manifest": 1}
REFERENCE = DATA | {"train_reference_job": 1}
TRAINED = REFERENCE | {"learn_prompt_job": 1, "unlearn_job": 1, "train_baseline_job": 2}
SETS = {"prepare_dataset_job": 1}
FEATURES = TRAINED | SETS | {"extract_features_job": 1}
OVERLAP = DATA | SETS | {"check_overlap": 1}
EVALUATIONS = {"eval_zeroshot_job": 4, "eval_probe_job": 4, "eval_retrieval_job": 4}
TARGETS = {
    "download_images": {"download_images": 1},
    "build_manifest": DATA,
    "train_reference": REFERENCE,
    "import_reference": {},
    "learn_prompt": REFERENCE | {"learn_prompt_job": 1},
    "unlearn": REFERENCE | {"learn_prompt_job": 1, "unlearn_job": 1},
    "train_baseline": REFERENCE | {"train_baseline_job": 2},
    "prepare_dataset": SETS,
    "extract_features": FEATURES,
    "check_overlap": OVERLAP,
    "eval_zeroshot": FEATURES | {"eval_zeroshot_job": 4},
    "eval_probe": FEATURES | {"eval_probe_job": 4},
    "eval_retrieval": FEATURES | {"eval_retrieval_job": 4},
    "make_tables": FEATURES | EVALUATIONS | OVERLAP | {"make_tables": 1},
    "export_model": FEATURES | EVALUATIONS | {"export_model_job": 4},
    "all": FEATURES | EVALUATIONS | OVERLAP | {"make_tables": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace(tmp_path_factory.mktemp("dag") / "project")


@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_is_a_target_that_runs_what_it_needs(folder: Path, target: str) -> None:
    assert planned_jobs(folder, target) == TARGETS[target]


STUDY = {  # in test_studies.py
    "build_memory_bank", "train_npc", "compare_experiments", "inject_label_noise", "select_clean", "train_classifier",
    "make_label_tables",
}  # fmt: skip
COMMANDS = ("show_summary", "show_bill", "send_runs", "check_cluster")


def test_every_step_module_is_a_stage() -> None:
    modules = {path.stem for path in (REPOSITORY / "pipeline_steps").glob("*_*.py")}
    assert modules - {"__init__", *COMMANDS} | {"unlearn"} == TARGETS.keys() - {"all"} | STUDY


def test_two_seeds_double_every_cell(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "seeds.yaml"
    extra.write_text("seeds: [0, 1]\nmethods: [continued, ncu]\n")
    jobs = planned_jobs(folder, configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == OVERLAP | {"make_tables": 1, "extract_features_job": 1} | dict.fromkeys(
        ("train_reference_job", "learn_prompt_job", "unlearn_job", "train_baseline_job"), 2
    ) | dict.fromkeys(EVALUATIONS, 6)


def test_checkpoints_share_jobs_of_the_size_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "few.yaml"
    extra.write_text("extract_features: {checkpoints_per_job: 3}\nseeds: [0, 1]\n")
    jobs = planned_jobs(folder, "eval_zeroshot", configfiles=("config/smoke.yaml", str(extra)))
    assert (jobs["extract_features_job"], jobs["eval_zeroshot_job"]) == (3, 8)


def test_every_set_is_prepared_by_a_job_of_its_own(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "sets.yaml"
    extra.write_text("prepare_dataset: {datasets: [openclipart, cifar10, mscoco]}\n")
    jobs = planned_jobs(folder, "eval_probe", configfiles=("config/smoke.yaml", str(extra)))
    assert (jobs["prepare_dataset_job"], jobs["extract_features_job"], jobs["eval_probe_job"]) == (3, 1, 4)


def test_a_download_is_shared_by_as_many_jobs_as_asked_for(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "parts.yaml"
    extra.write_text("download_images: {jobs: 5}\n")
    jobs = planned_jobs(folder, "build_manifest", configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == DATA | {"download_images_job": 5}


def test_an_own_csv_needs_no_download(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.csv"
    source.write_text("image_path,text_content\na.png,a\n")
    extra = tmp_path / "own.yaml"
    extra.write_text(f"build_manifest: {{source_csv: {source}}}\n")
    jobs = planned_jobs(folder, "train_reference", configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == {"build_manifest": 1, "train_reference_job": 1}


def test_an_imported_reference_takes_the_place_of_the_trained_one(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.touch()
    extra = tmp_path / "imported.yaml"
    extra.write_text(f"import_reference: {{weights: {weights}, format: open_clip}}\n")
    jobs = planned_jobs(folder, "unlearn", configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == DATA | {"import_reference_job": 1, "learn_prompt_job": 1, "unlearn_job": 1}


def test_methods_with_the_same_phase_1_share_it(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "methods.yaml"
    extra.write_text("methods: [ncu, ncu_no_transport, ncu_v3, ncu_v1]\n")
    jobs = planned_jobs(folder, "unlearn", configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == REFERENCE | {"learn_prompt_job": 2, "unlearn_job": 4}


def test_many_processes_are_a_resource_and_rerun_nothing(folder: Path) -> None:
    ran = snakemake(folder, "unlearn", "--dry-run", "-p", "--set-resources", "unlearn_job:processes=4")
    assert "launch 1 4 1 pipeline_steps.unlearn" in ran.stdout
    assert "launch 1 1 1 pipeline_steps.learn_prompt" in ran.stdout


def test_a_wrong_configuration_stops_before_any_job_with_every_error(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "wrong.yaml"
    extra.write_text("unlearn: {gamma: 2, gama: 1}\nseeds: []\n")
    ran = snakemake(folder, "--dry-run", configfiles=("config/smoke.yaml", str(extra)))
    assert ran.returncode != 0
    assert "3 error(s)" in ran.stdout
    assert "did you mean `gamma`" in ran.stdout


def test_a_key_that_stands_twice_stops_it_too_though_snakemake_keeps_the_last(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "twice.yaml"
    extra.write_text("unlearn: {gamma: 0.3}\nunlearn: {training: {epochs: 2}}\n")
    ran = snakemake(folder, "--dry-run", configfiles=("config/smoke.yaml", str(extra)))
    assert ran.returncode != 0
    assert f"{extra}: unlearn stands in line 1 and again in line 2" in ran.stdout


def test_a_model_that_cannot_be_built_stops_it_before_its_data_are_made(folder: Path, tmp_path: Path) -> None:
    model, extra = tmp_path / "own.json", tmp_path / "own.yaml"
    content = json.loads((REPOSITORY / "config/models/smoke_rn.json").read_text())
    extra.write_text(f"model: {{architecture: {model}}}\n")
    for tower, words in (
        (
            {"timm_model_name": "vit_basee_patch16_224"},
            "open_clip cannot build the model 'own': Unknown model (vit_basee",
        ),
        (content["vision_cfg"] | {"embed_layers": 3}, f"{model}: vision_cfg.embed_layers = 3: unknown key"),
    ):
        model.write_text(json.dumps(content | {"vision_cfg": tower}))
        ran = snakemake(folder, "--dry-run", configfiles=("config/smoke.yaml", str(extra)))
        assert ran.returncode != 0
        assert words in ran.stdout


def test_snakemake_lint_is_clean(folder: Path) -> None:
    ran = snakemake(folder, "--lint")
    assert ran.returncode == 0, ran.stdout
    assert "Congratulations" in ran.stdout
