from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps import show_summary
from pipeline_steps.core.config import load_config, read_yaml, settings_json
from pipeline_steps.make_tables import STEP
from tests.results_tree import SETTINGS, SIGNALS, MadeSet, write_tree
from tests.unit.paths import REPOSITORY
from tests.unit.step_runs import command, runs_of

DEFAULT = load_config(read_yaml([REPOSITORY / "config" / "config.yaml"]))
BESIDE = json.loads(settings_json(DEFAULT, "unlearn", "import_reference"))
TABLES = {**SETTINGS["make_tables"], "bootstrap_samples": 60}
WANTED = {"methods": list(SIGNALS), "seeds": [0], "make_tables": TABLES, **BESIDE}
PAPER = REPOSITORY / "resources" / "paper" / "tables.yaml"
CLASSIFICATION = ("classification",)


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _outputs(results: Path) -> dict[str, Path]:
    names = {"tables": "tables", "figures": "figures", "findings": "findings.md"}
    return {option: results / name for option, name in names.items()}


def test_tables_figures_and_findings_are_made_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_tree(tmp_path / "results" / "demo")
    outputs = _outputs(results)
    for name in ("tables", "figures"):  # of an earlier run
        outputs[name].mkdir()
        (outputs[name] / "old.csv").touch()
    outputs["findings"].write_text("old")
    assert command(STEP, settings=WANTED, method="report", results=results, paper=PAPER, **outputs) == 0
    assert len(list(outputs["tables"].iterdir())) == 11
    assert len(list(outputs["figures"].iterdir())) == 12
    *_, run = runs_of("make_tables")
    assert {"findings.md", "tables/summary.md", "figures/recall_by_method.png"} <= set(run.files)

    capsys.readouterr()
    assert show_summary.main([str(results)]) == 0
    shown = capsys.readouterr().out
    frame = pd.read_csv(outputs["tables"] / "summary.csv").set_index("title")
    for title, row in frame.iterrows():
        line = next(line for line in shown.splitlines() if line.startswith(str(title)))
        assert f" {100 * row['mean_recall/mean']:.1f}" in line
    assert " ".join(outputs["findings"].read_text().split()) in " ".join(shown.split())
    assert "The forget set against the injected noise" in shown
    for place in (outputs["tables"], outputs["figures"], "make mlflow"):
        assert str(place) in shown


def test_a_hole_is_refused_and_the_old_tables_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_tree(tmp_path / "results" / "demo", {"continued": 0.3}, histories=False)
    outputs = _outputs(results)
    outputs["tables"].mkdir()
    (outputs["tables"] / "summary.csv").write_text("old")
    wanted = {**WANTED, "methods": ["continued", "ncu"]}
    assert command(STEP, settings=wanted, method="report", results=results, paper=PAPER, **outputs) == 1
    error = capsys.readouterr().err
    assert "has 3 hole(s), so no table was made" in error
    assert "eval_retrieval/ncu/seed0/scores.json" in error
    assert (outputs["tables"] / "summary.csv").read_text() == "old"
    assert not outputs["figures"].exists()


def test_the_papers_tables_overlaps_holes_and_figures_come_out_of_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hole = "cars cannot be had: put it into data/evaluation/cars"
    sets = [MadeSet(name, tasks=CLASSIFICATION) for name in ("cifar10", "stl10", "imagenet1k")]
    sets += [MadeSet("cars", tasks=CLASSIFICATION, hole=hole), MadeSet("mscoco", "recall", ("retrieval",), folds=2)]
    signals = {"continued": 0.3, "ncu": 0.35, "ncu_v3": 0.31, "ncu_500k": 0.28}
    results = write_tree(tmp_path / "results" / "demo", signals, seeds=(0, 1), datasets=sets)
    (results / "build_manifest").mkdir()
    (results / "build_manifest" / "report.json").write_text(json.dumps({"splits": {"train": 900_000}}))
    overlaps = results / "overlaps.parquet"
    found = {"dataset": ["cifar10", "mscoco"], "row": [1, 8], "kind": ["exact", "near"]}
    pd.DataFrame({**found, "train_id": "a", "distance": 0}).to_parquet(overlaps)
    tables = {
        **TABLES, "paper": {"corpus": "CC3M", "architecture": "ViT-B/16"}, "averages": {"small": ["cifar10", "stl10"]},
    }  # fmt: skip
    wanted = {"methods": list(signals), "seeds": [0, 1], "make_tables": tables, **BESIDE}
    outputs = _outputs(results)
    assert command(STEP, settings=wanted, results=results, paper=PAPER, overlaps=overlaps, **outputs) == 0
    written = {path.name for path in outputs["tables"].iterdir()}
    assert {f"table{k}.{form}" for k in (1, 2, 5) for form in ("csv", "md", "tex")} <= written
    assert {"overlap.csv", "overlap.md", "holes.csv", "README.md"} <= written
    assert "table4.md" not in written
    contents = (outputs["tables"] / "README.md").read_text()
    assert "- Table 4: methods gradient_ascent, softclip are not in `methods`." in contents
    assert "- Table 3: none" not in contents
    figures = {path.name for path in outputs["figures"].iterdir()}
    for name in ("fig4_partial_data", "fig5_similarity", "zero_shot_difference"):
        assert {f"{name}.png", f"{name}.svg", f"{name}.csv"} <= figures
    capsys.readouterr()
    assert show_summary.main([str(results)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Data sets that could not be had ------------------------------- cars: {hole}" in shown
    assert "name them in make_tables.averages" in shown
    assert "(small, 2 sets)" in shown
    assert "zero-shot top-1 on small (2 sets)" in shown


def test_an_average_over_unknown_sets_stops_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write_tree(tmp_path / "results" / "demo", {"ncu": 0.3}, histories=False)
    wanted = {**WANTED, "methods": ["ncu"], "make_tables": {**TABLES, "averages": {"mine": ["cifar10"]}}}
    outputs = _outputs(results)
    assert command(STEP, settings=wanted, results=results, paper=PAPER, **outputs) == 1
    assert "make_tables.averages names sets that this experiment does not evaluate" in capsys.readouterr().err
    assert not outputs["tables"].exists()


@pytest.mark.parametrize("task", ["classification", "retrieval"])
def test_a_reference_alone_with_sets_of_one_task_gives_tables(tmp_path: Path, task: str) -> None:
    one = MadeSet("mine", "accuracy" if task == "classification" else "recall", (task,))
    results = write_tree(tmp_path / "results" / "demo", {}, datasets=[one])
    outputs = _outputs(results)
    wanted = {**WANTED, "methods": []}
    assert command(STEP, settings=wanted, method="report", results=results, paper=PAPER, **outputs) == 0
    frame = pd.read_csv(outputs["tables"] / "summary.csv").set_index("method")
    given, absent = ("zero_shot_top1", "mean_recall") if task == "classification" else ("mean_recall", "zero_shot_top1")
    assert frame.loc["reference", f"{given}/mean"] > 0
    assert f"{absent}/mean" not in frame
    assert "nothing to compare it with" in outputs["findings"].read_text()
    assert show_summary.main([str(results)]) == 0
