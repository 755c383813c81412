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


def test_a_study_shows_its_table_and_what_each_experiment_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tables = tmp_path / "two" / "tables"
    tables.mkdir(parents=True)
    (tables / "scores.csv").write_text("entry,place\nlow,0.0\nhigh,0.4\nlow,0.0\n")
    (tables / "headlines.md").write_text("# By experiment\n\n| Method | 0 | 0.4 |\n")
    for number, entry in enumerate(("low", "high")):
        folder = tmp_path / f"two_{entry}"
        (folder / "benchmarks" / "train_npc" / "npc").mkdir(parents=True)
        (folder / "findings.md").write_text(f"found with {entry} noise")
        (folder / "benchmarks/train_npc/npc/seed0.tsv").write_text(f"s\tmax_rss\n{60 * number + 30}\t100\n")
    assert show_summary.main([str(tmp_path / "two")]) == 0
    shown = capsys.readouterr().out
    assert f"Study {tmp_path}/two" in shown
    assert "| Method | 0 | 0.4 |" in shown
    assert shown.index("two_low: found with low noise") < shown.index("two_high: found with high noise")
    (row,) = (line for line in shown.splitlines() if line.startswith("train_npc"))
    assert "2 min 00 s" in row


def test_classifiers_stand_in_the_summary_where_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _table(tmp_path / "labels" / "tables")
    (tmp_path / "labels" / "label_tables").mkdir()
    (tmp_path / "labels" / "label_tables" / "README.md").write_text("# Noisy labels\n\n| CLIPCleaner | 71.0 |\n")
    assert show_summary.main([str(tmp_path / "labels")]) == 0
    assert "Classifiers on noisy labels\n---------------------------\n| CLIPCleaner | 71.0 |" in capsys.readouterr().out
