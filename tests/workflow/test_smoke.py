"""The smoke DAG for real: img2dataset over HTTP, every stage, SQLite MLflow; then what reruns and what survives."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.support.startup import starts
from tests.support.warm_python import warm_python
from tests.workflow.open_runs import unlearn_runs, wait_for_open_run
from tests.workflow.snakemake_runs import planned_jobs, snakemake, user_environment, warm_environment

METHODS = ("reference", "continued", "gradient_ascent", "ncu")
STAGES_OF = {
    "data": {"download_images", "build_manifest"},
    "evaluation": {"extract_features", "check_overlap"},
    "report": {"make_tables"},
    "reference": {"train_reference"},
    "continued": {"train_baseline"},
    "gradient_ascent": {"train_baseline"},
    "ncu": {"learn_prompt", "unlearn"},
}
EVALUATIONS = {"eval_zeroshot", "eval_probe", "eval_retrieval"}


@pytest.fixture(scope="module")
def folder(copied: Callable[..., Path]) -> Path:
    return copied("smoke")


# Not pandas: pyarrow loads it by itself.
HEAVY = {
    "torch", "torch._dynamo", "torchvision", "open_clip", "timm", "transformers", "sklearn", "scipy", "mlflow",
    "matplotlib", "duckdb", "faiss", "img2dataset", "clip_benchmark", "pydantic",
}  # fmt: skip
TRAINS = {"torch", "torch._dynamo", "torchvision", "open_clip"}
MAY_LOAD = {
    "download_images": set(),
    "build_manifest": {"duckdb"},
    "prepare_dataset": set(),
    "check_overlap": {"duckdb"},
    "train_reference": TRAINS,
    "train_baseline": TRAINS,
    "learn_prompt": TRAINS,
    "unlearn": TRAINS,
    "extract_features": TRAINS,
    "eval_zeroshot": set(),
    "eval_retrieval": set(),
    "eval_probe": {"torch", "sklearn", "scipy"},
    "make_tables": {"matplotlib", "scipy"},
    "send_runs": {"mlflow", "pydantic", "scipy"},
}


def test_a_step_loads_what_its_path_needs(finished: Path) -> None:
    """In its real run, to the end, the first of its kind; a library that comes back on a path is named here."""
    loaded: dict[str, set[str]] = {}
    for start in starts(finished / "starts"):
        loaded.setdefault(start.step, set()).update(start.packages & HEAVY)
    assert loaded.keys() == MAY_LOAD.keys()
    assert {step: found - MAY_LOAD[step] for step, found in loaded.items() if found - MAY_LOAD[step]} == {}


def _edited(folder: Path, text: str) -> tuple[str, str]:
    extra = folder / "edited.yaml"
    extra.write_text(text)
    return "config/smoke.yaml", "edited.yaml"


def test_bad_urls_are_counted_by_cause(folder: Path) -> None:
    report = json.loads((folder / "results/smoke/download_images/report.json").read_text())
    causes = ("not_found", "server_error", "timed_out", "truncated", "not_an_image", "too_small", "too_large")
    assert all(report["failures"][cause] > 0 for cause in causes), report
    assert report["lost"] == 0
    assert 0.05 <= 1 - report["success_fraction"] <= 0.09


def test_tables_hold_every_method_and_every_measure(folder: Path) -> None:
    tables = folder / "results/smoke/tables"
    names = ("zero_shot", "linear_probe", "retrieval", "summary", "overlap", "forget_set")
    written = ["README.md", *(f"{name}.{kind}" for name in names for kind in ("csv", "md"))]
    assert sorted(path.name for path in tables.glob("[!.]*")) == sorted(written)
    assert "- Table 1: none of its sets is in prepare_dataset.datasets" in (tables / "README.md").read_text()
    trained = {"reference", "continued", "gradient_ascent", "ncu"}
    for path in tables.glob("*.csv"):
        with_it = {"ncu"} if path.stem == "forget_set" else trained
        assert with_it <= {row["method"] for row in csv.DictReader(path.open())}, path
    assert "NCU" in (tables / "summary.md").read_text()
    figures = {path.stem for path in (folder / "results/smoke/figures").glob("*.png")}
    assert {"loss_curves", "fig5_similarity", "recall_by_method"} <= figures
    findings = (folder / "results/smoke/findings.md").read_text()
    assert "NCU" in findings


def test_every_step_is_a_finished_run_under_its_methods_parent(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id: run.data.tags["method"] for run in runs if run.data.tags.get("parent") == "true"}
    assert sorted(parents.values()) == sorted(STAGES_OF)
    stages: dict[str, set[str]] = {method: set() for method in STAGES_OF}
    for run in runs:
        if run.info.run_id in parents:
            continue
        assert run.info.status == "FINISHED"
        assert run.data.tags["current"] == "true"
        method = parents[run.data.tags["mlflow.parentRunId"]]
        assert run.data.tags["stage"] not in stages[method], "a stage counted twice"
        stages[method].add(run.data.tags["stage"])
    assert stages == {method: own | (EVALUATIONS if method in METHODS else set()) for method, own in STAGES_OF.items()}
    unlearn = next(run for run in runs if run.data.tags.get("stage") == "unlearn")
    history = {key: client.get_metric_history(unlearn.info.run_id, key) for key in unlearn.data.metrics}
    steps = len(history["loss"])
    assert steps == len({metric.step for metric in history["loss"]}) > 10
    for key in ("lr", "pairs_per_second", "loss/realignment", "forget_set/precision", "forget_set/recall"):
        assert len(history[key]) == steps
    assert unlearn.data.params["unlearn.gamma"] == "0.7"
    assert {"input.pairs.sha256", "git_commit", "seed"} <= unlearn.data.tags.keys()
    reference = next(run for run in runs if parents.get(run.info.run_id) == "reference")
    assert any("mean_recall" in key for key in reference.data.metrics)


def test_nothing_runs_again_and_a_comment_changes_nothing(folder: Path) -> None:
    assert planned_jobs(folder) == {}
    assert planned_jobs(folder, configfiles=_edited(folder, "# a comment\nunlearn: {gamma: 0.70}\n")) == {}


def test_an_edited_key_of_unlearn_reruns_phase_2_and_what_follows_and_nothing_before(folder: Path) -> None:
    assert planned_jobs(folder, configfiles=_edited(folder, "unlearn: {gamma: 0.5}\n")) == {
        "unlearn_job": 1,
        "extract_features_job": 1,
        "eval_zeroshot_job": 4,  # of the batch
        "eval_probe_job": 4,
        "eval_retrieval_job": 4,
        "make_tables": 1,
    }


def test_an_edited_row_of_the_table_makes_that_set_again_and_a_comment_does_not(folder: Path) -> None:
    path = folder / "config/datasets.yaml"
    before = path.read_text()
    assert before.count("title: Open Clip Art\n") == 1
    path.write_text(before.replace("title: Open Clip Art\n", "title: Open Clip Art  # a comment\n"))
    commented = planned_jobs(folder)
    path.write_text(before.replace("title: Open Clip Art\n", "title: Clip Art\n"))
    edited = planned_jobs(folder)
    path.write_text(before)
    assert commented == {}
    assert edited == {
        "prepare_dataset_job": 1, "extract_features_job": 1, "check_overlap": 1, "make_tables": 1,
        "eval_zeroshot_job": 4, "eval_probe_job": 4, "eval_retrieval_job": 4,
    }  # fmt: skip


def test_another_experiment_finds_the_sets_prepared(folder: Path) -> None:
    jobs = planned_jobs(folder, "eval_zeroshot", configfiles=_edited(folder, "experiment: other\n"))
    assert "prepare_dataset_job" not in jobs
    assert jobs["extract_features_job"] == 1


def test_a_set_that_is_added_is_the_only_one_that_is_prepared_and_embedded(folder: Path) -> None:
    pictures = folder / "data/evaluation/dots"
    pictures.mkdir(parents=True)
    rows = ["image,caption"]
    for number in range(20):
        Image.new("RGB", (20, 20), (0, 8 * number, 0)).save(pictures / f"{number}.png")
        rows.append(f"{number}.png,green number {number}")
    (pictures / "captions.csv").write_text("\n".join(rows))
    table = folder / "config/datasets.yaml"
    before = table.read_text()
    source = "{kind: captions_csv, path: '{root}/dots/captions.csv', splits: {test: test}}"
    table.write_text(
        f"{before}\ndots: {{title: Dots, tasks: [retrieval], metric: recall, n: {{test: 20}}, sources: [{source}]}}\n"
    )
    edited = _edited(folder, "prepare_dataset: {datasets: [openclipart, dots]}\n")
    assert planned_jobs(folder, "extract_features", configfiles=edited) == {
        "prepare_dataset_job": 1, "extract_features_job": 1
    }  # fmt: skip
    ran = snakemake(folder, "extract_features", configfiles=edited, environment=warm_environment())
    table.write_text(before)
    assert ran.returncode == 0, ran.stdout[-3000:]
    told = (folder / "results/smoke/logs/extract_features/0.log").read_text()
    assert "pictures read 20, pictures encoded 80," in told
    assert "texts encoded 80," in told


def _embedded(results: Path) -> dict[Path, int]:
    """The finished files of the cache, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in results.glob("features/*/*.safetensors")}


def test_snakemake_killed_while_embedding_goes_on_with_what_was_not_finished(folder: Path) -> None:
    results = folder / "results"
    before = {path: path.read_bytes() for path in _embedded(results)}
    shutil.rmtree(results / "features")
    shutil.rmtree(results / "smoke/extract_features")
    command = ["snakemake", "extract_features", "--configfile", "config/smoke.yaml"]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env=warm_environment(), stdout=silent, stderr=silent) as running:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and running.poll() is None:
            if len(_embedded(results)) > 8 and list(results.glob("features/*/.*.partial")):
                break
            time.sleep(0.01)
        assert running.poll() is None
        process = psutil.Process(warm_python().worker_of(running.pid))
        running.kill()  # and all that it started
        process.wait(10)
    assert list(results.glob("features/*/.*.partial"))
    kept = _embedded(results)
    assert len(kept) > 8
    assert snakemake(folder, "--unlock").returncode == 0
    again = snakemake(folder, "extract_features", environment=warm_environment())
    assert again.returncode == 0, again.stdout[-3000:]
    assert kept.items() <= _embedded(results).items()
    assert not list(results.glob("features/*/.*.partial"))
    assert {path: path.read_bytes() for path in _embedded(results)}.items() <= before.items()
    assert planned_jobs(folder) == {}, "an index that was written anew with the same content reruns no evaluation"
    told = (results / "smoke/logs/extract_features/0.log").read_text()
    assert re.search(r"pictures from cache [1-9]", told), told


def test_the_control_follows_the_compute_of_unlearn(folder: Path) -> None:
    jobs = planned_jobs(folder, configfiles=_edited(folder, "unlearn: {training: {epochs: 2}}\n"))
    assert jobs["unlearn_job"] == 1
    assert jobs["train_baseline_job"] == 2
    assert "learn_prompt_job" not in jobs
    assert "train_reference_job" not in jobs


def test_an_edited_layer_count_in_the_models_file_reruns_from_the_reference(folder: Path) -> None:
    path = folder / "config/models/vit.json"
    before = path.read_text()
    path.write_text(before.replace('"layers": 2', '"layers": 1'))
    jobs = planned_jobs(folder)
    path.write_text(before)
    assert jobs["train_reference_job"] == jobs["unlearn_job"] == 1
    assert "build_manifest" not in jobs
    assert planned_jobs(folder) == {}


def test_paths_may_hold_whatever_a_shell_would_read(folder: Path) -> None:
    pictures, results = folder / "my pictures; $(touch it_ran)", 'o\'r results & $(touch it_ran) "é" #1%20'
    pictures.mkdir()
    rows = ["image_path,text_content"]
    for number in range(30):
        Image.new("RGB", (20, 20), (8 * number, 0, 0)).save(pictures / f"{number}.png")
        rows.append(f"{number}.png,red number {number}")
    (pictures / "pairs.csv").write_text("\n".join(rows))
    edited = _edited(
        folder,
        f"results_dir: {json.dumps(results)}\n"
        f"build_manifest: {{source_csv: {json.dumps(f'{pictures.name}/pairs.csv')}, validation_fraction: 0.3}}\n",
    )
    ran = snakemake(folder, "build_manifest", configfiles=edited, environment=warm_environment(tells_mlflow=True))
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert json.loads((folder / results / "smoke/build_manifest/report.json").read_text())["pairs"] == 30
    assert (folder / results / "mlflow.db").is_file()
    assert not list(folder.rglob("it_ran"))


def test_an_edited_key_of_an_evaluation_reruns_it_and_the_tables(folder: Path) -> None:
    edited = _edited(folder, "eval_retrieval: {recall_at: [1, 10]}\n")
    assert planned_jobs(folder, configfiles=edited) == {"eval_retrieval_job": 4, "make_tables": 1}


def test_the_summary_prints_tables_findings_places_and_times(folder: Path) -> None:
    ran = subprocess.run(
        ["python", "-m", "pipeline_steps.show_summary", "results/smoke"],
        cwd=folder, capture_output=True, text=True, check=True, env=user_environment(),
    )  # fmt: skip
    for expected in ("NCU", "equal compute", "results/smoke/tables", "make mlflow", "train_reference", "one after"):
        assert expected in ran.stdout, ran.stdout


def test_a_killed_step_ends_as_killed_and_a_second_try_finishes_without_doubling(folder: Path) -> None:
    shutil.rmtree(folder / "results/smoke/eval_zeroshot/ncu")
    edited = _edited(folder, "unlearn: {gamma: 0.6}\n")
    running = subprocess.Popen(
        ["snakemake", "unlearn", "--configfile", *edited], cwd=folder, env=warm_environment(tells_mlflow=True),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    victim = wait_for_open_run(folder, running)
    os.kill(victim, signal.SIGKILL)
    output, _ = running.communicate(timeout=120)
    assert running.returncode != 0, output
    assert not (folder / "results/smoke/unlearn/ncu/seed0/checkpoint").exists()
    assert [run.info.status for run in unlearn_runs(folder)] == ["KILLED"]
    again = snakemake(folder, "unlearn", configfiles=edited, environment=warm_environment(tells_mlflow=True))
    assert again.returncode == 0, again.stdout[-3000:]
    runs = unlearn_runs(folder)
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    assert [run.data.tags["current"] for run in runs] == ["false", "true"]


def test_a_hole_in_the_grid_is_refused_by_name(folder: Path) -> None:
    (folder / "results/smoke/eval_probe/continued/seed0/scores.json").unlink()
    (folder / "holes.yaml").write_text("{experiment: holes, methods: [continued, ncu], seeds: [0]}")
    ran = subprocess.run(
        ["python", "-m", "pipeline_steps.make_tables", "--results", "results/smoke", "--tables", "t", "--figures", "f",
         "--paper", "resources/paper/tables.yaml", "--findings", "findings.md",
         "--config", "config/config.yaml", "config/smoke.yaml", "holes.yaml"],
        cwd=folder, capture_output=True, text=True, check=False, env=warm_environment(),
    )  # fmt: skip
    assert ran.returncode == 1
    assert re.search(r"eval_probe.*continued.*seed ?0", ran.stderr), ran.stderr
    assert not (folder / "t").exists()
