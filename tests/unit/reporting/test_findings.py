from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline_steps.reporting.findings import findings_text
from pipeline_steps.reporting.grid import Grid, read_grid
from pipeline_steps.reporting.history import forget_frame, read_histories
from pipeline_steps.reporting.measured import Bootstrap, Measured, measure_grid
from pipeline_steps.reporting.summary import Summary, summarise
from tests.results_tree import SIGNALS, write_tree

NO_NOISE = pd.DataFrame({"method": [], "name": [], "value": []})
CASES = {"ahead of": 0.45, "behind": 0.12, "indistinguishable from": 0.3}


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.)\s+", text.strip())


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Summary]:
    folder = tmp_path_factory.mktemp("findings") / "demo"
    write_tree(folder, {"continued": 0.3, "ncu": CASES[request.param]}, histories=False)
    return request.param, summarise(
        measure_grid(read_grid(folder, ("continued", "ncu"), (0,)), Bootstrap(150, 0.95, 0))
    )


def test_the_verdict_on_mean_recall_is_the_one_that_was_built_in(case: tuple[str, Summary]) -> None:
    verdict, summary = case
    sentences = _sentences(findings_text(summary, NO_NOISE))
    assert len(sentences) == 2
    cell = summary.cells["ncu", "mean_recall"]
    assert cell.to_control is not None
    low, high = (100 * bound for bound in cell.to_control.interval)
    expected = (
        f"NCU's mean recall of {100 * cell.score.mean:.1f}% is {verdict} the equal-compute control "
        f"({100 * cell.to_control.estimate:+.1f} points, 95% interval {low:+.1f} to {high:+.1f})"
    )
    assert expected in sentences[1]
    assert sentences[1].endswith("not the luck of training.")


def test_every_verdict_agrees_with_its_interval(case: tuple[str, Summary]) -> None:
    text = findings_text(case[1], NO_NOISE)
    found = re.findall(r"(ahead of|behind|indistinguishable from) the [\w -]+? \(([^)]*)\)", text)
    assert len(found) == 6
    for verdict, numbers in found:
        low, high = (float(number) for number in re.findall(r"[-+]\d+\.\d", numbers)[-2:])
        assert {"ahead of": low >= 0, "behind": high <= 0, "indistinguishable from": low <= 0 <= high}[verdict]


def test_the_first_sentence_tells_of_the_noise(results: Path, summary: Summary) -> None:
    forget = forget_frame(read_histories(results, tuple(SIGNALS), (0,)))
    first, second = _sentences(findings_text(summary, forget))
    cell = summary.cells["reference", "mean_recall"]
    assert first.startswith("The reference, trained on captions of which 40% had been shuffled among pictures, reaches")
    assert f"{100 * cell.score.mean:.1f}% mean recall (chance {100 * cell.score.chance:.1f}%)" in first
    assert re.search(r"5\d\.\d% of the pairs in NCU's forget sets were shuffled ones, more than the 40\.\d%", first)
    assert second.startswith("NCU's mean recall of")


def test_without_injected_noise_captions_are_as_they_came(summary: Summary) -> None:
    first = _sentences(findings_text(summary, NO_NOISE))[0]
    assert first.startswith("The reference, trained on captions as they came, reaches")
    assert "shuffled" not in first


def test_an_imported_reference_is_not_said_to_be_trained_here(results: Path, summary: Summary) -> None:
    forget = forget_frame(read_histories(results, tuple(SIGNALS), (0,)))
    first = _sentences(findings_text(summary, forget, "data/clip.pt"))[0]
    assert first.startswith("The reference, imported from data/clip.pt, reaches")
    assert "in NCU's forget sets were shuffled ones" in first


def test_several_seeds_are_named(wide_grid: Grid) -> None:
    text = findings_text(summarise(measure_grid(wide_grid, Bootstrap(50, 0.9, 0))), NO_NOISE)
    assert len(_sentences(text)) == 2
    assert "90% interval" in text
    assert text.endswith("for the mean over 3 seeds.\n")


@pytest.mark.parametrize(
    ("methods", "start", "end"),
    [
        (("reference", "ncu"), "NCU's mean recall", "so the training itself may explain a difference."),
        (("reference", "continued", "gradient_ascent"), "Gradient ascent's mean recall", "not the luck of training."),
        (("reference", "continued"), "CLIP, trained on (equal compute)'s mean recall", "not the luck of training."),
    ],
)
def test_other_lists_of_methods_give_two_true_sentences(
    grid: Grid, methods: tuple[str, ...], start: str, end: str
) -> None:
    text = findings_text(
        summarise(measure_grid(Grid(methods, grid.seeds, grid.cells), Bootstrap(50, 0.95, 0))), NO_NOISE
    )
    sentences = _sentences(text)
    assert len(sentences) == 2
    assert sentences[1].startswith(start)
    assert sentences[1].endswith(end)
    assert ("equal-compute control (" in sentences[1]) == ("continued" in methods[:-1] or methods[-1] == "ncu")


def test_a_mean_that_needs_a_missing_set_is_left_out(paper_measured: Measured) -> None:
    first, second = _sentences(findings_text(summarise(paper_measured), NO_NOISE))
    assert "zero-shot" not in first + second
    assert "mean recall (chance" in first
    assert second.startswith("NCU's mean recall of")


def test_an_average_by_name_takes_its_place(paper_measured: Measured) -> None:
    summary = summarise(paper_measured, {"small": ("cifar10", "pets")})
    first, second = _sentences(findings_text(summary, NO_NOISE))
    value = summary.cells["reference", "zero_shot_top1@small"].score.mean
    assert f"{100 * value:.1f}% zero-shot top-1 on small (2 sets) (chance" in first
    assert "its zero-shot top-1 on small (2 sets) of" in second


def test_without_any_number_both_sentences_are_still_true(summary: Summary) -> None:
    empty = dataclasses.replace(summary, cells={}, columns=(), holes={"cars": "gone", "pets": "gone"})
    first, second = _sentences(findings_text(empty, NO_NOISE))
    assert "has no mean over all sets, some of which are missing." in first
    assert second.startswith("NCU cannot be placed before these sets are there: cars, pets; one seed was run")
