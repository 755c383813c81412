from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.data import eda
from pipeline_steps.data.wordnet import WordNet, cleaned
from tests.unit.data.tiny_wordnet import write_tiny_wordnet

CAPTION = "the big dog and the mouse run near some tall blue house while people watch them from a very old bridge"
WORDS = CAPTION.split()
TABLE = {"dog": ("hound", "hot dog"), "big": ("large",), "run": ("sprint",), "the": ("those",)}


def synonyms(word: str) -> tuple[str, ...]:
    return TABLE.get(word, ())


def test_synonym_replacement_changes_a_tenth_of_the_words_and_no_stop_word() -> None:
    assert len(WORDS) == 21
    seen = set()
    for seed in range(40):
        found = eda.replace_synonyms(WORDS, random.Random(seed), synonyms)
        changed = [index for index, (old, new) in enumerate(zip(WORDS, found, strict=True)) if old != new]
        assert len(changed) == 2
        assert all(found[index] in TABLE[WORDS[index]] for index in changed)
        seen |= {WORDS[index] for index in changed}
    assert seen == {"dog", "big", "run"}
    assert eda.replace_synonyms(["old", "bridge"], random.Random(0), synonyms) == ["old", "bridge"]


def test_random_insertion_adds_a_tenth_of_synonyms() -> None:
    possible = {name for names in TABLE.values() for name in names}
    for seed in range(40):
        found = eda.insert_synonyms(WORDS, random.Random(seed), synonyms)
        added = Counter(found) - Counter(WORDS)
        assert set(added) <= possible
        assert added.total() <= 2
        rest = iter(found)
        assert all(word in rest for word in WORDS), "the words keep their order"
    assert eda.insert_synonyms(["dog"], random.Random(0), synonyms) != ["dog"]
    assert eda.insert_synonyms(["old"], random.Random(0), synonyms) == ["old"]


def test_random_swap_exchanges_a_tenth_of_the_places() -> None:
    for seed in range(40):
        found = eda.swap_words(WORDS, random.Random(seed), synonyms)
        assert Counter(found) == Counter(WORDS)
        assert sum(old != new for old, new in zip(WORDS, found, strict=True)) <= 4
    assert eda.swap_words(["blue", "dog"], random.Random(0), synonyms) == ["dog", "blue"]
    assert eda.swap_words(["dog"], random.Random(0), synonyms) == ["dog"]


def test_random_deletion_drops_a_tenth_on_average_and_never_all() -> None:
    kept = [len(eda.delete_words(WORDS, random.Random(seed), synonyms)) for seed in range(400)]
    assert sum(kept) / len(kept) == pytest.approx(0.9 * len(WORDS), rel=0.02)
    assert all(eda.delete_words(["dog"], random.Random(seed), synonyms) == ["dog"] for seed in range(50))


def test_one_of_four_operations_is_drawn_evenly() -> None:
    drawn = Counter[str]()
    for seed in range(800):
        found = eda.augment(CAPTION, random.Random(seed), synonyms).split()
        words = Counter(found)
        if words == Counter(WORDS):
            drawn["swap"] += 1
        elif not (words - Counter(WORDS)):
            drawn["delete"] += 1
        else:
            drawn["replace" if Counter(WORDS) - words else "insert"] += 1
    # A deletion that drops nothing looks like a swap: 0.9^21 of them.
    assert all(100 < count < 300 for count in drawn.values())
    assert len(drawn) == 4


def test_the_same_draw_gives_the_same_caption_and_another_draw_another(tmp_path: Path) -> None:
    wordnet = WordNet(write_tiny_wordnet(tmp_path / "wordnet"))
    caption = "A Dog and a big blue Mouse!"
    first = [eda.augment(caption, random.Random(seed), wordnet) for seed in range(30)]
    assert first == [eda.augment(caption, random.Random(seed), wordnet) for seed in range(30)]
    assert len(set(first)) > 10
    assert any("domestic dog" in found or "hot dog" in found for found in first)


@given(st.text(), st.integers())
def test_the_outcome_is_clean_and_never_empty_where_there_is_a_letter(caption: str, seed: int) -> None:
    found = eda.augment(caption, random.Random(seed), synonyms)
    if cleaned(caption):
        assert found
        assert found == cleaned(found)
    else:
        assert found == caption
