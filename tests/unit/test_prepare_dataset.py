"""The step: the bundled set as it has always been, and a set that cannot be had as a hole, not an error."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline_steps.evaluation.datasets.prepared import read_prepared
from pipeline_steps.prepare_dataset import STEP
from tests.unit.step_runs import runs_of


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))


def _run(folder: Path, dataset: str, table: Path, *, root: Path, files: tuple[Path, ...] = ()) -> int:
    settings = {
        "experiment": "test", "prepare_dataset": {"table": str(table), "datasets": [dataset], "root": str(root)}
    }  # fmt: skip
    tracked = ["--files", *map(str, files)] if files else []
    return STEP.main(
        ["--dataset", dataset, "--dataset-table", str(table), *tracked, "--folder", str(folder),
         "--settings", json.dumps(settings), "--threads", "1"]
    )  # fmt: skip


def test_the_bundled_set_keeps_its_pictures_labels_and_captions(tmp_path: Path) -> None:
    bundled = Path("resources/openclipart/openclipart.parquet")
    assert _run(tmp_path / "set", "openclipart", Path("config/datasets.yaml"), root=tmp_path, files=(bundled,)) == 0
    made = read_prepared(tmp_path / "set")
    assert (made.hole, made.missing, made.tasks) == (None, {}, ("classification", "retrieval"))
    assert {name: (split.n, split.label_hash) for name, split in made.splits.items()} == {
        "test": (1532, "ae3088caa065"), "train": (3903, "eb755d46aa08")
    }  # fmt: skip
    assert made.splits["test"].content_hash.startswith("cb0d439741835e1d")
    assert sum(map(bool, made.splits["test"].captions)) == 846
    assert max(map(len, made.splits["test"].captions)) == 1
    run = runs_of("prepare_dataset")[0]
    assert run.metrics["openclipart/test/n"] == 1532


def test_a_set_that_cannot_be_had_is_a_hole_and_comes_with_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "sets.yaml"
    table.write_text(
        "mine: {title: Mine, tasks: [retrieval], metric: recall, n: {test: 1}, remedy: 'write {root}/test.csv', "
        "sources: [{kind: captions_csv, path: '{root}/{split}.csv', splits: {test: test}}]}\n"
    )
    with caplog.at_level(logging.WARNING):
        assert _run(tmp_path / "set", "mine", table, root=tmp_path / "root") == 0
    hole = read_prepared(tmp_path / "set").hole
    assert hole == (
        f"no source is there: captions_csv: {tmp_path}/root/test.csv does not exist. "
        f"Remedy: write {tmp_path}/root/test.csv"
    )
    assert f"mine cannot be had: {hole}" in capfd.readouterr().err
    (tmp_path / "root").mkdir()
    bundled = Path("docs/recall_by_method.png").read_bytes()
    (tmp_path / "root" / "a.png").write_bytes(bundled)
    (tmp_path / "root" / "test.csv").write_text("image,caption\na.png,a plot\n")
    assert _run(tmp_path / "set", "mine", table, root=tmp_path / "root") == 0
    made = read_prepared(tmp_path / "set")
    assert (made.hole, made.splits["test"].captions) == (None, [["a plot"]])


def test_an_unknown_row_and_a_wrong_row_are_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "sets.yaml"
    table.write_text("mine: {title: Mine, tasks: [retrieval], metric: recall, n: {}, sources: [{kind: tar}]}\n")
    assert _run(tmp_path / "set", "other", table, root=tmp_path) == 1
    assert "'other' is no row of" in capfd.readouterr().err
    assert _run(tmp_path / "set", "mine", table, root=tmp_path) == 1
    assert "mine.sources.0" in capfd.readouterr().err
    assert not (tmp_path / "set").exists()
