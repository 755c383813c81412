from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from pipeline_steps.core.methods import METHODS as TABLE
from pipeline_steps.evaluation.feature_file import FeatureFile
from pipeline_steps.evaluation.similarity import validation_similarities
from pipeline_steps.reporting.figures import write_figures
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.history import read_histories
from pipeline_steps.reporting.plots import histogram_frame, method_colour
from pipeline_steps.reporting.statistics import Bootstrap
from tests.results_tree import SIGNALS, VALIDATION

FIGURES = ("recall_by_method", "similarity_histograms", "loss_curves", "forget_set")


def _similarities(results: Path, grid: Grid) -> dict[str, pd.DataFrame]:
    folder = results / "extract_features"
    return {
        method: validation_similarities(FeatureFile(folder / method / "seed0" / "features.safetensors"))
        for method in grid.methods
    }


@pytest.fixture(scope="module")
def figures(results: Path, grid: Grid, bootstrap: Bootstrap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    history = read_histories(results, tuple(SIGNALS), (0,))
    write_figures(folder, grid, bootstrap, similarities=_similarities(results, grid), history=history)
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_a_picture_a_drawing_and_its_data(figures: Path, name: str) -> None:
    with Image.open(figures / f"{name}.png") as picture:
        picture.load()
        assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert picture.width >= 600
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20) or []) > 20
    assert ElementTree.parse(figures / f"{name}.svg").getroot().tag.endswith("svg")
    assert len(pd.read_csv(figures / f"{name}.csv"))


def test_nothing_else_is_written(figures: Path) -> None:
    assert len(list(figures.iterdir())) == 3 * len(FIGURES)


def test_recall_data_are_the_scores_with_intervals_around_them(figures: Path, grid: Grid) -> None:
    frame = pd.read_csv(figures / "recall_by_method.csv").set_index(["measure", "method"])
    assert len(frame) == 6 * len(grid.methods)
    for (measure, method), row in frame.iterrows():
        assert row["value"] == pytest.approx(grid.values("eval_retrieval", method, "openclipart", measure)[0])
        assert row["low"] <= row["value"] <= row["high"]
        assert row["chance"] == pytest.approx(grid.chance("eval_retrieval", "openclipart", measure))


def test_histograms_count_every_pair_once(figures: Path, results: Path, grid: Grid) -> None:
    frame = pd.read_csv(figures / "similarity_histograms.csv")
    shares = frame.groupby(["method", "pairs"])["share"].sum()
    assert len(shares) == 3 * len(grid.methods)
    assert shares.to_numpy() == pytest.approx(1)
    assert (frame["share"] * VALIDATION).round(6).mod(1).eq(0).all()
    cosines = _similarities(results, grid)["ncu"]
    of_ncu = frame[(frame["method"] == "ncu") & (frame["pairs"] == "matched")]
    assert of_ncu["mean"].iloc[0] == pytest.approx(cosines["matched"].mean())
    assert frame.groupby("method")["bin_left"].apply(lambda column: tuple(sorted(set(column)))).nunique() == 1


def test_equal_similarities_still_give_a_histogram() -> None:
    same = pd.DataFrame({"matched": [0.5, 0.5], "mismatched": [0.5, 0.5], "hard_mismatched": [0.5, 0.5]})
    assert histogram_frame({"reference": same})["share"].sum() == pytest.approx(3)


def test_the_same_results_give_the_same_files(
    figures: Path, results: Path, grid: Grid, bootstrap: Bootstrap, tmp_path: Path
) -> None:
    history = read_histories(results, tuple(SIGNALS), (0,))
    write_figures(tmp_path, grid, bootstrap, similarities=_similarities(results, grid), history=history)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in figures.iterdir())


def test_curves_are_left_out_where_there_are_none(
    results: Path, grid: Grid, bootstrap: Bootstrap, tmp_path: Path
) -> None:
    nothing = read_histories(tmp_path / "nowhere", tuple(SIGNALS), (0,))
    write_figures(tmp_path, grid, bootstrap, similarities=_similarities(results, grid), history=nothing)
    assert {path.stem for path in tmp_path.iterdir()} == {"recall_by_method", "similarity_histograms"}


def test_methods_next_to_each_other_in_the_table_have_colours_of_their_own() -> None:
    methods = list(TABLE)
    assert "ncu" in methods[:7]
    for start in range(len(methods) - 6):
        assert len({method_colour(method) for method in methods[start : start + 7]}) == 7
