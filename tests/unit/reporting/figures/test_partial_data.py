from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.reporting.figures.partial_data import pairs_in_use, pairs_of, partial_figure, partial_frame
from pipeline_steps.reporting.measured import Measured


def test_sizes_are_those_of_the_methods_and_of_the_manifest() -> None:
    methods = ("continued", "ncu", "ncu_1000k", "ncu_500k", "ncu_v1")
    assert pairs_of(methods, 2_900_000, None) == {"ncu_500k": 500_000, "ncu_1000k": 1_000_000, "ncu": 2_900_000}
    assert pairs_of(methods, 800_000, 700_000) == {"ncu_500k": 500_000, "ncu": 700_000, "ncu_1000k": 800_000}


def test_the_manifest_is_read_where_it_is_needed(tmp_path: Path) -> None:
    assert pairs_in_use(("continued", "ncu"), tmp_path, None) == {}
    with pytest.raises(PipelineError, match=r"report\.json is missing.*run build_manifest"):
        pairs_in_use(("ncu", "ncu_500k"), tmp_path, None)
    (tmp_path / "build_manifest").mkdir()
    (tmp_path / "build_manifest" / "report.json").write_text(json.dumps({"splits": {"train": 600_000}}))
    assert pairs_in_use(("ncu", "ncu_500k"), tmp_path, None) == {"ncu_500k": 500_000, "ncu": 600_000}


def test_scores_stand_over_sizes_beside_the_reference(paper_measured: Measured) -> None:
    frame = partial_frame(paper_measured, {"ncu_500k": 500_000, "ncu": 2_900_000}).set_index(["stage", "method"])
    assert len(frame) == 6
    assert set(frame["datasets"]) == {"imagenet1k", "mscoco"}
    for (stage, method), row in frame.iterrows():
        expected = paper_measured.grid.values(stage, method, row["datasets"], row["measure"])[0]
        assert row["value"] == pytest.approx(expected)
        assert row["low"] <= row["value"] <= row["high"]
    assert frame.loc[("eval_zeroshot", "reference"), "pairs"] == 0


def test_without_the_papers_sets_the_experiments_own_are_taken_and_named(wide_measured: Measured) -> None:
    frame = partial_frame(wide_measured, {"continued": 500_000, "ncu": 900_000})
    assert set(frame["datasets"]) == {"openclipart, second"}
    figure = partial_figure(frame, 0.95)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["mean of 2 sets"] * 2
    assert [axis.get_xlabel() for axis in figure.axes] == ["thousand pairs"] * 2


def test_the_figure_has_the_reference_as_a_line_and_ncu_with_intervals(paper_measured: Measured) -> None:
    figure = partial_figure(partial_frame(paper_measured, {"ncu_500k": 500_000, "ncu": 2_900_000}), 0.95)
    axis = figure.axes[0]
    assert axis.get_title(loc="left") == "imagenet1k"
    assert axis.get_xlabel() == "million pairs"
    assert "95% interval" in axis.get_ylabel()
    (line,) = [line for line in axis.get_lines() if line.get_label() == "CLIP (reference)"]
    assert len(set(line.get_ydata())) == 1  # type: ignore[arg-type]
    assert list(axis.containers[0][0].get_xdata()) == [0.5, 2.9]


def test_one_size_is_no_figure(paper_measured: Measured) -> None:
    assert partial_frame(paper_measured, {"ncu": 2_900_000}).empty
    assert partial_frame(paper_measured, {"ncu_500k": 400_000, "ncu": 400_000}).empty
