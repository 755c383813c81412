from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline_steps.core.config import load_config, merged, read_yaml
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.methods import METHODS
from pipeline_steps.reporting.figures.study import study_figure
from pipeline_steps.reporting.grid import read_grid
from pipeline_steps.reporting.measured import Bootstrap, measure_grid
from pipeline_steps.reporting.published import Published, PublishedSet, published_frame, read_published
from pipeline_steps.reporting.study import control_frame, headline_markdown, recall_markdown, shown_metrics, study_frame
from pipeline_steps.reporting.summary import summarise
from pipeline_steps.reporting.tables import write_tables
from tests.results_tree import MadeSet, write_tree
from tests.unit.paths import CONFIG, REPOSITORY

PLACES = {"more": 0.4, "none": 0.0}
NPC = REPOSITORY / "resources" / "published" / "npc.yaml"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tables of two experiments: MSCOCO in folds, and the scores of one noise level better than the other's."""
    found = {}
    for entry, signal in (("more", 0.2), ("none", 0.4)):
        folder = tmp_path_factory.mktemp(entry)
        sets = (MadeSet("openclipart"), MadeSet("flickr30k", "recall", ("retrieval",)))
        write_tree(folder / "demo", {"continued": signal, "ncu": signal / 2}, datasets=sets, histories=False)
        grid = read_grid(folder / "demo", ("continued", "ncu"), (0,))
        measured = measure_grid(grid, Bootstrap(50, 0.95, 0))
        found[entry] = folder / "tables"
        found[entry].mkdir()
        write_tables(found[entry], measured, summarise(measured, {}))
    return found


@pytest.fixture(scope="module")
def published() -> Published:
    measures = tuple(f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))
    values = {0.4: {"continued": (10.0, 20.0, 30.0, 40.0, 50.0, 60.0)}}
    wrong = {"text_to_image_recall@10": "a copy of another column"}
    return Published("a paper", measures, {"flickr30k": PublishedSet(values, wrong)})


def test_every_score_of_every_experiment_is_there_in_the_order_of_the_axis(tables: dict[str, Path]) -> None:
    frame = study_frame(tables, PLACES, None)
    assert frame["place"].is_monotonic_increasing
    for entry, folder in tables.items():
        for name in ("zero_shot", "linear_probe", "retrieval"):
            own = pd.read_csv(folder / f"{name}.csv")
            found = frame[
                frame["entry"].eq(entry) & frame["stage"].str.contains(name.replace("_shot", "").replace("linear_", ""))
            ]
            assert sorted(found["mean"]) == sorted(own["mean"])
    assert frame["minus_published"].isna().all()


def test_published_values_stand_beside_ours_and_wrong_ones_are_not_compared(
    tables: dict[str, Path], published: Published
) -> None:
    frame = study_frame(tables, PLACES, published)
    beside = frame[frame["published"].notna()].set_index("measure")
    assert len(beside) == 6
    assert set(beside["place"]) == {0.4}
    first = beside.loc["image_to_text_recall@1"]
    assert first["minus_published"] == pytest.approx(first["mean"] - 0.1)
    assert np.isnan(beside.loc["text_to_image_recall@10", "minus_published"])
    text = recall_markdown(frame, "noise", published)
    assert "(10.0)" in text
    assert "(60.0?)" in text
    assert "text to image R@10 of flickr30k is not to be compared: a copy of another column." in text


def test_headlines_have_a_row_per_method_and_a_column_per_place(tables: dict[str, Path]) -> None:
    frame = study_frame(tables, PLACES, None)
    control = control_frame(tables, PLACES)
    text = headline_markdown(frame, control, "share shuffled")
    assert "## flickr30k: mean recall" in text
    assert "## openclipart: linear probe" in text
    row = next(line for line in text.splitlines() if METHODS["continued"].title in line)
    chosen = frame[
        frame["method"].eq("continued") & frame["measure"].eq("mean_recall") & frame["dataset"].eq("flickr30k")
    ]
    assert [f"{100 * value:.1f}" for value in chosen["mean"]] == [cell.strip(" †") for cell in row.split("|")[2:4]]


def test_differences_to_the_control_are_those_of_the_summaries(tables: dict[str, Path]) -> None:
    control = control_frame(tables, PLACES)
    assert set(control["method"]) == {"reference", "ncu"}
    assert control["place"].is_monotonic_increasing
    whole = pd.read_csv(tables["more"] / "summary.csv").set_index("method")
    chosen = control[control["entry"].eq("more") & control["method"].eq("ncu") & control["headline"].eq("mean_recall")]
    assert chosen["minus_control"].tolist() == [whole.loc["ncu", "mean_recall/minus_control"]]
    assert chosen["high"].tolist() == [whole.loc["ncu", "mean_recall/minus_control_high"]]
    text = headline_markdown(study_frame(tables, PLACES, None), control, "share shuffled")
    assert "## Mean recall minus that of the equal-compute control [interval], points" in text
    assert f"{100 * chosen['minus_control'].iloc[0]:+.1f} [" in text
    without = control_frame({"a": tables["more"]}, {"a": 0.0}).iloc[:0]
    assert "minus" not in headline_markdown(study_frame(tables, PLACES, None), without, "share shuffled")


def test_metrics_have_the_place_as_their_step(tables: dict[str, Path]) -> None:
    found = shown_metrics(study_frame(tables, PLACES, None))
    assert {step for _, step, _ in found} == {0, 40}
    assert "retrieval/openclipart/mean_recall/ncu" in {name for name, _, _ in found}


def test_the_figure_has_a_panel_per_set_and_a_line_per_method(tables: dict[str, Path]) -> None:
    figure = study_figure(study_frame(tables, PLACES, None), "share shuffled")
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == [
        "flickr30k: mean recall", "openclipart: mean recall", "openclipart: zero-shot top-1",
        "openclipart: linear probe",
    ]  # fmt: skip
    assert all(len(axis.containers) == 3 for axis in panels)
    assert figure.legends[0].get_texts()[-1].get_text() == "chance"


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has no retrieval\.csv that can be read"):
        study_frame({"a": tmp_path}, {"a": 0.0}, None)


def test_npcs_published_values_are_whole_and_of_its_studies() -> None:
    frame = published_frame(read_published(NPC))
    assert len(frame) == 6 * 2 * (5 + 5 + 4 + 1)
    assert frame[~frame["trusted"]]["measure"].unique().tolist() == ["text_to_image_recall@10"]
    assert frame[~frame["trusted"]]["dataset"].unique().tolist() == ["mscoco_1k_folds"]
    wide = frame.pivot(index=["place", "dataset", "method"], columns="measure", values="published")
    for way in ("image_to_text", "text_to_image"):
        assert (wide[f"{way}_recall@1"] < wide[f"{way}_recall@5"]).all()
        assert (wide[f"{way}_recall@5"] < wide[f"{way}_recall@10"]).all()
    both = wide.xs("npc", level="method") - wide.xs("continued", level="method")
    assert (both.drop(columns="text_to_image_recall@10") > 0).all(axis=None)
    wrong = wide.xs("mscoco_1k_folds", level="dataset")
    assert (wrong["text_to_image_recall@10"] == wrong["image_to_text_recall@10"]).all()  # which is what is wrong


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("source: s\nmeasures: [a, b]\ndatasets: {d: {values: {0.2: {npc: [1.0]}}}}\n")
    with pytest.raises(PipelineError, match=r"d 0\.2 npc has not the 2 values"):
        read_published(path)
    path.write_text("source: s\nmeasures: [a]\ndatasets: {d: {valuess: {}}}\n")
    with pytest.raises(PipelineError, match=r"datasets\.d\.values"):
        read_published(path)


@pytest.mark.parametrize("name", ["npc_mscoco", "npc_flickr30k", "npc_cc120k"])
def test_the_studies_of_npc_stand_where_its_values_do(name: str) -> None:
    raw = merged(read_yaml([CONFIG]), read_yaml([REPOSITORY / "config" / "studies" / f"{name}.yaml"]))
    config = load_config(raw)
    over = config.compare_experiments.over
    assert over is not None
    places = {sections["build_manifest"]["noise"]["fraction"] for sections in over.values()}
    frame = published_frame(read_published(REPOSITORY / str(config.compare_experiments.published)))
    (dataset,) = config.prepare_dataset.datasets
    assert places == {0.0, 0.2, 0.4, 0.5, 0.6} >= set(frame[frame["dataset"].eq(dataset)]["place"])
    assert set(config.methods) == set(frame["method"])
