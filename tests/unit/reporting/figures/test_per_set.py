from __future__ import annotations

import pytest

from pipeline_steps.reporting.figures.per_set import difference_figure, difference_frame
from pipeline_steps.reporting.measured import Measured, Place
from pipeline_steps.reporting.paper.layout import classification_places


def _places(measured: Measured) -> list[Place]:
    return [place for place in classification_places(measured.grid, "by_set") if place.stage == "eval_zeroshot"]


def test_differences_are_those_of_each_set_in_its_own_measure(paper_measured: Measured) -> None:
    places = _places(paper_measured)
    frame = difference_frame(paper_measured, places).set_index(["other", "dataset"])
    assert len(frame) == 2 * len(places)
    assert frame.loc[("reference", "pets"), "measure"] == "mean_per_class"
    for place in places:
        row = frame.loc[("continued", place.dataset)]
        found = paper_measured.difference("ncu", "continued", [place])
        assert found is not None
        assert tuple(row[["difference", "low", "high"]]) == pytest.approx((found.estimate, *found.interval))


def test_no_mean_is_drawn_over_fewer_sets_than_there_are(paper_measured: Measured, wide_measured: Measured) -> None:
    assert not difference_frame(paper_measured, _places(paper_measured))["dataset"].str.startswith("mean of").any()
    three = [Place("eval_zeroshot", name, measure) for name, measure in
             (("openclipart", "top1"), ("second", "top1"), ("second", "mean_per_class"))]  # fmt: skip
    frame = difference_frame(wide_measured, three)
    assert list(frame.loc[frame["measure"] == "", "dataset"]) == ["mean of all 3"] * 2
    assert frame["seed_low"].notna().all()


def test_the_figure_has_a_panel_per_other_method_and_a_line_per_set(paper_measured: Measured) -> None:
    frame = difference_frame(paper_measured, _places(paper_measured))
    figure = difference_figure(frame, 0.95)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["NCU minus CLIP (reference)", "NCU minus CLIP, trained on (equal compute)"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == ["cifar10", "eurosat_vtab", "imagenet1k", "pets (mean per class)"]
    of_reference = frame[frame["other"] == "reference"].sort_values("difference")["dataset"].tolist()
    assert [label.split(" ")[0] for label in labels] == of_reference
    drawn = [line.get_xdata()[0] for line in figure.axes[0].get_lines()[: len(labels)]]  # type: ignore[index]
    assert drawn == pytest.approx(sorted(drawn))


def test_fewer_than_three_sets_or_no_ncu_draw_nothing(paper_measured: Measured, measured: Measured) -> None:
    assert difference_frame(paper_measured, _places(paper_measured)[:2]).empty
    assert difference_frame(measured, _places(measured)).empty
