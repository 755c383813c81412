from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.outcomes import classification_score, distributions, recall_scores

STAGES = ("eval_zeroshot", "eval_probe", "eval_retrieval")


@pytest.mark.parametrize("stage", STAGES)
def test_the_outcomes_give_the_scores(grid: Grid, stage: str) -> None:
    found = distributions(grid, stage, "openclipart", samples=20, seed=0)
    assert tuple(found) == grid.measures(stage, "openclipart")
    for measure, distribution in found.items():
        expected = [grid.values(stage, method, "openclipart", measure)[0] for method in grid.methods]
        assert distribution.scores_M == pytest.approx(expected), measure
        assert distribution.drawn_SM.shape == (20, len(grid.methods))


@pytest.mark.parametrize("measure", ["mean_recall", "image_to_text_recall@5", "text_to_image_recall@1"])
def test_the_outcomes_of_several_seeds_are_their_mean(wide_grid: Grid, measure: str) -> None:
    found = distributions(wide_grid, "eval_retrieval", "second", samples=20, seed=0)[measure]
    values = [wide_grid.values("eval_retrieval", method, "second", measure).mean() for method in wide_grid.methods]
    assert found.scores_M == pytest.approx(values)


def test_folds_are_galleries_of_their_own(paper_grid: Grid) -> None:
    name = "mscoco_60_folds"
    assert paper_grid.folds("eval_retrieval", name) == 2
    found = distributions(paper_grid, "eval_retrieval", name, samples=300, seed=0)
    values = [paper_grid.values("eval_retrieval", m, name, "mean_recall")[0] for m in paper_grid.methods]
    assert found["mean_recall"].scores_M == pytest.approx(values)
    (frame,) = paper_grid.outcomes("eval_retrieval", "ncu", name)
    halves = [recall_scores(frame[frame["image"] // 60 == fold], (1, 5, 10))["mean_recall"] for fold in (0, 1)]
    column = paper_grid.methods.index("ncu")
    assert np.mean(halves) == pytest.approx(values[column])
    assert found["mean_recall"].drawn_SM[:, column].mean() == pytest.approx(values[column], abs=0.01)


def test_pictures_are_drawn_with_all_their_captions(grid: Grid) -> None:
    """The bootstrap of text to image is wider than one of single captions, which are alike within a picture."""
    found = distributions(grid, "eval_retrieval", "openclipart", samples=3000, seed=0)["text_to_image_recall@5"]
    (frame,) = grid.outcomes("eval_retrieval", "reference", "openclipart")
    rows = frame[frame["direction"] == "text_to_image"]
    hit = (rows["rank"] <= 5).to_numpy(dtype=float)
    residual = rows.assign(hit=hit - hit.mean()).groupby("image")["hit"].sum()
    of_clusters = np.sqrt((residual**2).sum()) / len(hit)
    assert found.drawn_SM[:, 0].std() == pytest.approx(of_clusters, rel=0.1)


def test_scores_that_their_outcomes_do_not_give_are_refused(grid: Grid) -> None:
    key = ("eval_probe", "ncu", 0)
    scores = {"openclipart": {**grid.cells[key].scores["openclipart"], "accuracy": 0.99}}
    cells = {**grid.cells, key: dataclasses.replace(grid.cells[key], scores=scores)}
    with pytest.raises(PipelineError, match=r"eval_probe/ncu: scores\.json has openclipart/accuracy = 0\.990000"):
        distributions(Grid(grid.methods, grid.seeds, cells), "eval_probe", "openclipart", samples=10, seed=0)


def test_a_measure_that_outcomes_cannot_give_is_refused(grid: Grid) -> None:
    (frame,) = grid.outcomes("eval_probe", "ncu", "openclipart")
    with pytest.raises(PipelineError, match="no interval is known for the measure 'f1'"):
        classification_score(frame, "f1")
    assert np.isnan(classification_score(frame[:0], "accuracy"))
