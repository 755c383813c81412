from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from pipeline_steps.core.methods import METHODS as TABLE
from pipeline_steps.evaluation.features.index import Features
from pipeline_steps.evaluation.similarity import validation_similarities
from pipeline_steps.reporting.figures.similarity import histogram_frame, similarity_figure
from pipeline_steps.reporting.figures.style import method_colour, method_hatch
from pipeline_steps.reporting.figures.write import write_figures
from pipeline_steps.reporting.grid import Grid
from pipeline_steps.reporting.history import read_histories
from pipeline_steps.reporting.measured import Measured
from tests.results_tree import SIGNALS, VALIDATION

FIGURES = ("recall_by_method", "fig5_similarity", "loss_curves", "forget_set")


def _similarities(results: Path, grid: Grid) -> dict[str, pd.DataFrame]:
    folder = results / "extract_features"
    return {
        method: validation_similarities(Features(folder / method / "seed0" / "features.json"))
        for method in grid.methods
    }


@pytest.fixture(scope="module")
def figures(results: Path, measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    _write(folder, results, measured, results)
    return folder


def _write(folder: Path, results: Path, measured: Measured, histories: Path) -> None:
    history = read_histories(histories, tuple(SIGNALS), (0,))
    similarities = _similarities(results, measured.grid)
    write_figures(folder, measured, zero_shot=(), pairs={}, similarities=similarities, history=history)


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
    frame = pd.read_csv(figures / "fig5_similarity.csv")
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


def test_the_same_results_give_the_same_files(figures: Path, results: Path, measured: Measured, tmp_path: Path) -> None:
    _write(tmp_path, results, measured, results)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in figures.iterdir())


def test_curves_are_left_out_where_there_are_none(results: Path, measured: Measured, tmp_path: Path) -> None:
    _write(tmp_path, results, measured, tmp_path / "nowhere")
    assert {path.stem for path in tmp_path.iterdir()} == {"recall_by_method", "fig5_similarity"}


def test_many_methods_stand_in_two_columns(results: Path, grid: Grid) -> None:
    of_one = _similarities(results, grid)["ncu"]
    few, many = (similarity_figure(histogram_frame(dict.fromkeys(list(TABLE)[:count], of_one))) for count in (4, 9))
    assert len({axis.get_position().x0 for axis in few.axes}) == 1
    assert len(many.axes) == 9
    assert [axis.get_title(loc="left").split(":")[0] for axis in many.axes].count("before") == 1
    assert many.get_size_inches()[1] < 9


def test_methods_next_to_each_other_in_the_table_have_colours_of_their_own() -> None:
    methods = list(TABLE)
    assert "ncu" in methods[:7]
    for start in range(len(methods) - 6):
        assert len({method_colour(method) for method in methods[start : start + 7]}) == 7


def test_no_two_methods_look_the_same_in_bars() -> None:
    assert len({(method_colour(method), method_hatch(method)) for method in TABLE}) == len(TABLE)
    assert method_hatch("reference") == method_hatch("ncu") == ""
