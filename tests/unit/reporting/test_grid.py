from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid, read_grid
from tests.results_tree import SIGNALS, TEST, MadeSet, write_tree
from tests.unit.reporting.conftest import HOLE

METHODS = tuple(SIGNALS)


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "copy", ignore=shutil.ignore_patterns("extract_features")))


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
    assert "snakemake --forcerun make_tables" in message


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
    with pytest.raises(PipelineError, match=r"torn: .*scores.json is not what it should be: Expected `object`"):
        read_grid(copy, METHODS, (0,))


def test_another_evaluator_is_not_put_in_one_table(copy: Path) -> None:
    path = copy / "eval_probe" / "continued" / "seed0" / "scores.json"
    _edit(path, lambda scores: scores.update(evaluator="0"))
    with pytest.raises(PipelineError, match=r"other data: .*/continued/seed0/.*/evaluator = '0'"):
        read_grid(copy, METHODS, (0,))


def test_outcomes_on_other_pictures_are_refused(copy: Path) -> None:
    path = copy / "eval_zeroshot" / "ncu" / "seed0" / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame.assign(row=frame["row"] + 1).to_parquet(path)
    with pytest.raises(PipelineError, match=r"other data: .*/ncu/seed0/predictions\.parquet has other rows of opencl"):
        read_grid(copy, METHODS, (0,))


def test_a_set_that_no_checkpoint_has_is_a_named_hole(paper_grid: Grid) -> None:
    assert "cars" not in paper_grid.datasets("eval_zeroshot")
    assert paper_grid.holes("eval_zeroshot") == {"cars": HOLE}
    assert paper_grid.datasets("eval_retrieval") == ("mscoco", "mscoco_60_folds")
    assert paper_grid.own_datasets("eval_retrieval") == ("mscoco",)


def test_a_set_that_one_checkpoint_lacks_is_refused(copy: Path) -> None:
    path = copy / "eval_zeroshot" / "ncu" / "seed0" / "scores.json"
    path.write_text(json.dumps({"openclipart": {"hole": "the file is gone"}}))
    path = copy / "eval_probe" / "ncu" / "seed0" / "scores.json"
    scores = json.loads(path.read_text())
    path.write_text(json.dumps({**scores, "cars": {"hole": "nobody has it"}}))
    with pytest.raises(PipelineError) as error:
        read_grid(copy, METHODS, (0,))
    message = str(error.value)
    assert "ncu/seed0/scores.json has no scores of openclipart: a hole here (the file is gone), and others" in message
    assert message.count("has no scores of cars: other cells name it as a hole") == len(METHODS)


def test_a_grid_of_holes_alone_has_no_data_sets(tmp_path: Path) -> None:
    hole = MadeSet("cars", tasks=("classification",), hole="gone")
    photos = MadeSet("mscoco", "recall", ("retrieval",))
    write_tree(tmp_path, {"ncu": 0.3}, datasets=(hole, photos), histories=False)
    grid = read_grid(tmp_path, ("ncu",), (0,))
    assert grid.datasets("eval_zeroshot") == ()
    assert grid.holes("eval_zeroshot") == {"cars": "gone"}
    assert grid.datasets("eval_retrieval") == ("mscoco",)


def test_whole_numbers_of_outcomes_are_small(grid: Grid) -> None:
    (frame,) = grid.outcomes("eval_zeroshot", "ncu", "openclipart")
    assert set(map(str, frame.dtypes)) == {"int32"}
    assert list(frame.columns) == ["row", "label", "prediction", "rank"]
