from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.measured import Place
from pipeline_steps.reporting.names import MISSING
from pipeline_steps.reporting.overlap import overlap_frame, overlap_markdown, overlap_tables, read_overlaps

FOUND = [("pets", 0, "near"), ("pets", 3, "exact"), ("pets", 3, "near"), ("pets", 4, "exact"), ("mscoco", 8, "exact"),
         ("mscoco", 7, "near")]  # fmt: skip
PETS = Place("eval_zeroshot", "pets", "mean_per_class")


@pytest.fixture
def overlaps(tmp_path: Path) -> Path:
    path = tmp_path / "overlaps.parquet"
    frame = pd.DataFrame(FOUND, columns=["dataset", "row", "kind"])
    frame.assign(train_id="a", distance=0).to_parquet(path)
    return path


def test_a_picture_counts_once_and_exact_goes_before_near(overlaps: Path) -> None:
    found = read_overlaps(overlaps)
    assert sorted(found.itertuples(index=False, name=None)) == [
        ("mscoco", 7, "near"), ("mscoco", 8, "exact"), ("pets", 0, "near"), ("pets", 3, "exact"), ("pets", 4, "exact"),
    ]  # fmt: skip


def test_scores_without_the_pictures_are_those_of_the_other_rows(overlaps: Path, paper_grid: Grid) -> None:
    frame = overlap_frame(paper_grid, read_overlaps(overlaps), [PETS]).set_index("method")
    (rows,) = paper_grid.outcomes("eval_zeroshot", "ncu", "pets")
    assert 4 not in set(rows["row"]), "every fifth picture has no class and is not asked for"
    kept = rows[~rows["row"].isin([0, 3])]
    hit = kept["prediction"] == kept["label"]
    expected = np.mean([hit[kept["label"] == label].mean() for label in sorted(set(kept["label"]))])
    row = frame.loc["ncu"]
    assert (row["n"], row["exact"], row["near"]) == (96, 1, 1)
    assert row["without"] == pytest.approx(expected)
    assert row["score"] == paper_grid.values("eval_zeroshot", "ncu", "pets", "mean_per_class")[0]
    assert row["minus"] == pytest.approx(row["without"] - row["score"])


def test_retrieval_drops_the_questions_and_keeps_the_gallery(overlaps: Path, paper_grid: Grid) -> None:
    place = Place("eval_retrieval", "mscoco", "mean_recall")
    frame = overlap_frame(paper_grid, read_overlaps(overlaps), [place]).set_index("method")
    (rows,) = paper_grid.outcomes("eval_retrieval", "ncu", "mscoco")
    kept = rows[rows["image"] != 8]
    recalls = [
        (kept.loc[kept["direction"] == direction, "rank"] <= k).mean()
        for direction in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    ]
    row = frame.loc["ncu"]
    assert (row["n"], row["exact"], row["near"]) == (102, 1, 0), "picture 7 has no caption"
    assert row["without"] == pytest.approx(np.mean(recalls))


def test_means_are_over_seeds(wide_grid: Grid) -> None:
    overlaps = pd.DataFrame({"dataset": ["second"], "row": [0], "kind": ["exact"]})
    place = Place("eval_probe", "second", "accuracy")
    frame = overlap_frame(wide_grid, overlaps, [place]).set_index("method")
    each = [
        (kept["prediction"] == kept["label"]).mean()
        for kept in (rows[rows["row"] != 0] for rows in wide_grid.outcomes("eval_probe", "ncu", "second"))
    ]
    assert frame.loc["ncu", "without"] == pytest.approx(np.mean(each))
    assert len(each) == 3


def test_the_table_counts_every_set_and_shows_those_that_overlap(
    overlaps: Path, paper_grid: Grid, tmp_path: Path
) -> None:
    places = [PETS, Place("eval_zeroshot", "cifar10", "top1")]
    overlap_tables(tmp_path, paper_grid, overlaps, places)
    frame = pd.read_csv(tmp_path / "overlap.csv")
    assert set(frame["dataset"]) == {"pets", "cifar10", "mscoco"}
    text = (tmp_path / "overlap.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert [row for row in cells if row[0] == "pets"] == [["pets", "classification", "96", "1", "1"]]
    assert [row for row in cells if row[0] == "cifar10"] == [["cifar10", "classification", "96", "0", "0"]]
    row = frame.set_index(["dataset", "method"]).loc[("pets", "ncu")]
    shown = [f"{100 * row['score']:.1f}", f"{100 * row['without']:.1f}", f"{100 * row['minus']:+.1f}"]
    assert ["NCU", "pets: zero-shot mean per class", *shown] in cells
    assert [row[:2] for row in cells if row[0] == "mscoco"] == [["mscoco", "retrieval"]]
    assert not any("cifar10:" in row[1] for row in cells if len(row) > 1)
    assert "stay in the gallery" in text
    assert f"- {MISSING} cars: {paper_grid.holes('eval_zeroshot')['cars']}" in text


def test_without_overlaps_one_sentence_says_so(paper_grid: Grid) -> None:
    nothing = pd.DataFrame({"dataset": [], "row": [], "kind": []})
    text = overlap_markdown(overlap_frame(paper_grid, nothing, [PETS]), {})
    assert "No test picture of these sets is a training picture, or nearly one." in text


def test_a_torn_list_is_refused(tmp_path: Path, overlaps: Path) -> None:
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(overlaps.read_bytes()[:200])
    with pytest.raises(PipelineError, match="torn or is no list of overlaps.*Run check_overlap again"):
        read_overlaps(torn)
    pd.read_parquet(overlaps).assign(kind="almost").to_parquet(torn)
    with pytest.raises(PipelineError, match="allowed are exact and near"):
        read_overlaps(torn)
