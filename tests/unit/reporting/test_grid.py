from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid, read_grid
from tests.results_tree import SIGNALS, TEST

METHODS = tuple(SIGNALS)


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors")))


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    scores = json.loads(path.read_text())
    change(scores["openclipart"])
    path.write_text(json.dumps(scores))


def test_a_whole_grid_gives_every_cell(grid: Grid) -> None:
    assert grid.methods == ("reference", *METHODS)
    assert len(grid.cells) == 3 * len(grid.methods)
    assert grid.measures("eval_zeroshot", "openclipart") == ("top1", "top5", "mean_per_class")
    assert grid.measures("eval_retrieval", "openclipart") == (
        *(f"image_to_text_recall@{k}" for k in (1, 5, 10)),
        *(f"text_to_image_recall@{k}" for k in (1, 5, 10)),
        "mean_recall",
    )
    assert grid.chance("eval_retrieval", "openclipart", "text_to_image_recall@5") == 5 / TEST


def test_every_hole_is_named(copy: Path) -> None:
    (copy / "eval_probe" / "ncu" / "seed0" / "scores.json").unlink()
    shutil.rmtree(copy / "eval_zeroshot" / "reference")
    torn = copy / "eval_retrieval" / "continued" / "seed0" / "scores.json"
    torn.write_text(torn.read_text()[:100])
    ranks = copy / "eval_retrieval" / "ncu" / "seed0" / "ranks.parquet"
    ranks.write_bytes(ranks.read_bytes()[:500])
    with pytest.raises(PipelineError) as error:
        read_grid(copy, METHODS, (0,))
    message = str(error.value)
    assert "4 hole(s), so no table was made" in message
    assert f"missing: {copy}/eval_probe/ncu/seed0/scores.json" in message
    assert f"missing: {copy}/eval_zeroshot/reference/seed0/scores.json, {copy}/eval_zeroshot/reference" in message
    assert f"torn: {torn}" in message
    assert f"torn: {ranks}" in message
    assert "snakemake make_tables" in message


def test_a_seed_that_was_not_run_is_a_hole_in_every_evaluation(copy: Path) -> None:
    with pytest.raises(PipelineError, match=r"has 12 hole\(s\)") as error:
        read_grid(copy, METHODS, (0, 1))
    assert all(f"/{method}/seed1/" in str(error.value) for method in ("reference", *METHODS))


def test_a_measure_that_one_cell_lacks_is_a_hole(copy: Path) -> None:
    path = copy / "eval_zeroshot" / "ncu" / "seed0" / "scores.json"
    _edit(path, lambda scores: scores.pop("top5"))
    with pytest.raises(PipelineError, match=r"incomplete: .*/ncu/seed0/scores\.json lacks openclipart/top5"):
        read_grid(copy, METHODS, (0,))


def test_scores_on_other_labels_are_not_put_in_one_table(copy: Path) -> None:
    path = copy / "eval_zeroshot" / "ncu" / "seed0" / "scores.json"
    _edit(path, lambda scores: scores.update(label_hash="another"))
    with pytest.raises(PipelineError, match=r"other data: .*/ncu/seed0/.*label_hash = 'another'"):
        read_grid(copy, METHODS, (0,))


def test_json_of_another_form_is_torn(copy: Path) -> None:
    (copy / "eval_probe" / "ncu" / "seed0" / "scores.json").write_text("[1, 2]")
    with pytest.raises(PipelineError, match=r"torn: .*it does not map data sets to scores"):
        read_grid(copy, METHODS, (0,))
