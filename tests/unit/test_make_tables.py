from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps import show_summary
from pipeline_steps.make_tables import STEP
from tests.results_tree import SIGNALS, write_tree
from tests.unit.step_runs import artifacts_of, command, runs_of

WANTED = {"methods": list(SIGNALS), "seeds": [0], "make_tables": {"bootstrap_samples": 60, "confidence": 0.95}}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def _outputs(results: Path) -> dict[str, Path]:
    names = {"tables": "tables", "figures": "figures", "findings": "findings.md"}
    return {option: results / name for option, name in names.items()}


def test_tables_figures_and_findings_are_made_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_tree(tmp_path / "results" / "demo")
    outputs = _outputs(results)
    for _ in range(2):
        assert command(STEP, settings=WANTED, method="report", results=results, **outputs) == 0
    assert len(list(outputs["tables"].iterdir())) == 8
    assert len(list(outputs["figures"].iterdir())) == 12
    (run,) = runs_of("make_tables")
    assert {"findings.md", "tables/summary.md", "figures/recall_by_method.png"} <= artifacts_of(run)

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
    assert command(STEP, settings=wanted, method="report", results=results, **outputs) == 1
    error = capsys.readouterr().err
    assert "has 3 hole(s), so no table was made" in error
    assert "eval_retrieval/ncu/seed0/scores.json" in error
    assert (outputs["tables"] / "summary.csv").read_text() == "old"
    assert not outputs["figures"].exists()
