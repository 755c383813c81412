from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps import show_summary


def _table(folder: Path) -> None:
    folder.mkdir(parents=True)
    keys = ("zero_shot_top1", "zero_shot_mean_per_class", "linear_probe_accuracy", "mean_recall")
    header = ",".join(
        ["method", "title", *(f"{key}/{part}" for key in keys for part in ("mean", "std", "above_chance", "sets"))]
    )
    reference = ",".join(
        ["reference", "CLIP (reference)", *(["0.2", "", "True", "1"] * 3), "0.05", "0.011", "False", "1"]
    )
    chance = ",".join(["chance", "Chance", *(["0.0625", "", "", ""] * 4)])
    (folder / "summary.csv").write_text(f"{header}\n{reference}\n{chance}\n")


def test_the_folder_comes_from_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _table(tmp_path / "out" / "mine" / "tables")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("{experiment: demo, results_dir: out}")
    (tmp_path / "overlay.yaml").write_text("experiment: mine")
    assert show_summary.main(["--config", "overlay.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "Summary of out/mine (percent)" in shown
    assert "5.0 ± 1.1 (not above chance)" in shown
    assert "6.2" in next(line for line in shown.splitlines() if line.startswith("Chance"))
    assert "out/mlflow.db" in shown
    assert "What it means" not in shown
    (tmp_path / "server.yaml").write_text("{experiment: mine, tracking: {uri: 'http://127.0.0.1:5000'}}")
    assert show_summary.main(["--config", "server.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "http://127.0.0.1:5000" in shown
    assert "make mlflow" not in shown


def test_without_tables_the_remedy_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_summary.main([str(tmp_path / "demo")]) == 1
    assert "make it with `snakemake make_tables` or `make demo`" in capsys.readouterr().err


def test_a_configuration_without_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "overlay.yaml").write_text("experiment: mine")
    assert show_summary.main(["--config", "overlay.yaml"]) == 1
    assert "overlay.yaml: no results_dir; give the results folder itself" in capsys.readouterr().err
