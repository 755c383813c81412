from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.data.embedded import caption_of, choose_faulty, read_embedded
from pipeline_steps.data.file_server import FAULTS
from tests.unit.data.made_data import picture_bytes, write_embedded


@pytest.mark.parametrize(
    ("title", "tags", "caption"),
    [
        ("Lemon SVG theme", ["fruit", "lemon", "Theme"], "Lemon SVG theme, fruit"),
        ("", ["fruit", "", "  "], "fruit"),
        (None, [], ""),
        (" two\nlines ", ["a  tag"], "two lines, a tag"),
        ("cat", ["dog", "bird"], "cat, dog, bird"),
    ],
)
def test_captions_join_title_and_tags(title: str | None, tags: list[str], caption: str) -> None:
    assert caption_of(title, tags) == caption


@given(count=st.integers(0, 300), fraction=st.floats(0, 1))
def test_faulty_rows_are_exactly_the_fraction_and_do_not_depend_on_order(count: int, fraction: float) -> None:
    contents = [f"row {number}" for number in range(count)]
    chosen = choose_faulty(contents, fraction)
    assert len(chosen) == round(fraction * count)
    assert sorted(chosen.values()) == list(range(len(chosen)))
    backwards = choose_faulty(contents[::-1], fraction)
    assert {contents[row] for row in chosen} == {contents[::-1][row] for row in backwards}


def test_one_split_is_read_with_the_seven_faults_spread_evenly(tmp_path: Path) -> None:
    path = write_embedded(tmp_path / "bundled.parquet", 70)
    files, captions = read_embedded(path, "train", 0.3)
    assert Counter(file.fault for file in files) == {None: 49} | dict.fromkeys(FAULTS, 3)
    assert files[5].body == picture_bytes(5)
    assert captions[5] == "Title 5, tag"
    assert read_embedded(path, "train", 0.3) == (files, captions)
    assert {file.fault for file in read_embedded(path, "train", 0.0)[0]} == {None}


def test_an_unknown_split_and_another_kind_of_file_are_errors(tmp_path: Path) -> None:
    path = write_embedded(tmp_path / "bundled.parquet", 3)
    with pytest.raises(PipelineError, match="embedded_split = 'dev'.* has train"):
        read_embedded(path, "dev", 0.1)
    with pytest.raises(PipelineError, match="embedded_parquet"):
        read_embedded(tmp_path / "none.parquet", "train", 0.1)
