"""Dry runs: what each target and each edited key would run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.paths import REPOSITORY
from tests.workflow.snakemake_runs import planned_jobs, snakemake, workspace

DATA = {"download_images": 1, "build_manifest": 1}
REFERENCE = DATA | {"train_reference_job": 1}
TRAINED = REFERENCE | {"learn_prompt_job": 1, "unlearn_job": 1, "train_baseline_job": 2}
FEATURES = TRAINED | {"extract_features_job": 4}
EVALUATIONS = {"eval_zeroshot_job": 4, "eval_probe_job": 4, "eval_retrieval_job": 4}
TARGETS = {
    "download_images": {"download_images": 1},
    "build_manifest": DATA,
    "train_reference": REFERENCE,
    "import_reference": {},
    "learn_prompt": REFERENCE | {"learn_prompt_job": 1},
    "unlearn": REFERENCE | {"learn_prompt_job": 1, "unlearn_job": 1},
    "train_baseline": REFERENCE | {"train_baseline_job": 2},
    "extract_features": FEATURES,
    "eval_zeroshot": FEATURES | {"eval_zeroshot_job": 4},
    "eval_probe": FEATURES | {"eval_probe_job": 4},
    "eval_retrieval": FEATURES | {"eval_retrieval_job": 4},
    "make_tables": FEATURES | EVALUATIONS | {"make_tables": 1},
    "export_model": FEATURES | EVALUATIONS | {"export_model_job": 4},
    "all": FEATURES | EVALUATIONS | {"make_tables": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace(tmp_path_factory.mktemp("dag") / "project")


@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_is_a_target_that_runs_what_it_needs(folder: Path, target: str) -> None:
    assert planned_jobs(folder, target) == TARGETS[target]


def test_every_step_module_is_a_stage() -> None:
    modules = {path.stem for path in (REPOSITORY / "pipeline_steps").glob("*_*.py")} - {"__init__", "show_summary"}
    assert modules | {"unlearn"} == TARGETS.keys() - {"all"}


def test_two_seeds_double_every_cell(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "seeds.yaml"
    extra.write_text("seeds: [0, 1]\nmethods: [continued, ncu]\n")
    jobs = planned_jobs(folder, configfiles=("config/smoke.yaml", str(extra)))
    assert jobs == DATA | {"make_tables": 1} | dict.fromkeys(
        ("train_reference_job", "learn_prompt_job", "unlearn_job", "train_baseline_job"), 2
    ) | dict.fromkeys(("extract_features_job", "eval_zeroshot_job", "eval_probe_job", "eval_retrieval_job"), 6)


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
    assert "launch 4 pipeline_steps.unlearn" in ran.stdout
    assert "launch 1 pipeline_steps.learn_prompt" in ran.stdout


def test_a_wrong_configuration_stops_before_any_job_with_every_error(folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "wrong.yaml"
    extra.write_text("unlearn: {gamma: 2, gama: 1}\nseeds: []\n")
    ran = snakemake(folder, "--dry-run", configfiles=("config/smoke.yaml", str(extra)))
    assert ran.returncode != 0
    assert "3 error(s)" in ran.stdout
    assert "did you mean `gamma`" in ran.stdout


def test_snakemake_lint_is_clean(folder: Path) -> None:
    ran = snakemake(folder, "--lint")
    assert ran.returncode == 0, ran.stdout
    assert "Congratulations" in ran.stdout
