from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.schema import NegativeTextConfig
from pipeline_steps.data import negative_text
from pipeline_steps.data.negative_text import NEGATIVE_PREFIXES, NegativeText
from tests.unit.data.tiny_wordnet import write_tiny_wordnet

CAPTIONS = pa.chunked_array([[f"Caption {word}" for word in ("one", "two", "three")], ["a big dog", "42"]])


@pytest.fixture
def _wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_wordnet(tmp_path / "wordnet")
    monkeypatch.setattr(negative_text, "wordnet_folder", lambda: folder)


def test_under_the_prompt_the_text_is_the_caption() -> None:
    text = _text("prompt")
    assert [text(row, 3) for row in range(5)] == CAPTIONS.to_pylist()
    assert (text.uses_prompt, text.is_caption) == (True, True)


def test_a_prefix_is_drawn_by_seed_epoch_and_row_and_stands_before_the_caption() -> None:
    text = _text("prefix")
    assert (text.uses_prompt, text.is_caption) == (False, False)
    drawn = [[text(row, epoch) for row in range(5)] for epoch in range(40)]
    for texts in drawn:
        for found, caption in zip(texts, CAPTIONS.to_pylist(), strict=True):
            assert found.endswith(f" {caption}")
            assert found.removesuffix(f" {caption}") in NEGATIVE_PREFIXES
    used = {found.removesuffix(" a big dog") for found in (texts[3] for texts in drawn)}
    assert len(used) > len(NEGATIVE_PREFIXES) // 2
    assert len({texts[0].removesuffix(" Caption one") for texts in drawn}) > 1
    again = _text("prefix")
    assert [again(row, 7) for row in range(5)] == drawn[7]
    assert [_text("prefix", seed=1)(row, 7) for row in range(5)] != drawn[7]


def test_there_are_a_dozen_prefixes_and_more_each_once() -> None:
    assert len(set(NEGATIVE_PREFIXES)) == len(NEGATIVE_PREFIXES) >= 12
    assert all(prefix == prefix.strip() for prefix in NEGATIVE_PREFIXES)


def test_a_random_caption_is_any_other_rows_and_never_its_own() -> None:
    text = _text("random_caption")
    assert (text.uses_prompt, text.is_caption) == (False, False)
    captions = CAPTIONS.to_pylist()
    for row in range(5):
        drawn = {text(row, epoch) for epoch in range(60)}
        assert drawn == set(captions) - {captions[row]}


def test_a_random_caption_needs_a_second_pair() -> None:
    with pytest.raises(PipelineError, match="random_caption needs a second pair"):
        NegativeText(pa.array(["alone"]), NegativeTextConfig(source="random_caption", augment="none"), 0)


@pytest.mark.usefixtures("_wordnet")
@pytest.mark.parametrize("source", ["prompt", "prefix", "random_caption"])
def test_augmentation_changes_the_caption_of_every_source(source: str) -> None:
    text = _text(source, augment="eda")
    assert (text.uses_prompt, text.is_caption) == (source == "prompt", False)
    row = 0 if source == "random_caption" else 3
    found = {text(row, epoch) for epoch in range(80)}
    assert any("large" in one for one in found)
    assert any("domestic dog" in one or "hot dog" in one for one in found)
    if source == "prefix":
        assert all(any(one.startswith(prefix) for prefix in NEGATIVE_PREFIXES) for one in found)
    assert text(row, 5) == _text(source, augment="eda")(row, 5)


@pytest.mark.usefixtures("_wordnet")
def test_captions_without_letters_stay_and_are_counted_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pipeline_steps"):
        text = _text("prompt", augment="eda")
    assert text.without_letters == 1
    assert "1 of 5 captions have no letter a to z" in caplog.text
    assert {text(4, epoch) for epoch in range(10)} == {"42"}
    assert _text("prompt").without_letters == 0


def test_augmentation_without_wordnet_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(PipelineError, match="negative_text.augment: eda needs the synonyms of WordNet"):
        _text("prompt", augment="eda")


@pytest.mark.usefixtures("_wordnet")
def test_loader_processes_forked_or_spawned_make_the_same_texts() -> None:
    text = _text("prefix", augment="eda")
    expected = [text(row, 2) for row in range(4)]
    assert [pickle.loads(pickle.dumps(text))(row, 2) for row in range(4)] == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.starmap(text, [(row, 2) for row in range(4)]) == expected


def _text(source: str, augment: str = "none", seed: int = 0) -> NegativeText:
    return NegativeText(CAPTIONS, NegativeTextConfig(source=source, augment=augment), seed)  # type: ignore[arg-type]
