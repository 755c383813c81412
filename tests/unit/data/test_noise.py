from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import selection as oracle
from tests.unit.data.made_tables import shuffled_captions

CAPTIONS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]) | st.text(max_size=3), max_size=60)
FRACTIONS = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)


def _ids(captions: list[str]) -> list[str]:
    return [f"{number:016x}" for number in range(len(captions))]


@settings(deadline=None)
@given(count=st.integers(0, 200), fraction=FRACTIONS, seed=SEEDS)
def test_with_distinct_captions_exactly_the_fraction_changes(count: int, fraction: float, seed: int) -> None:
    captions = [f"caption {number}" for number in range(count)]
    after = shuffled_captions(_ids(captions), captions, fraction=fraction, seed=seed)
    chosen = round(fraction * count)
    assert sum(new != old for new, old in zip(after, captions, strict=True)) == (chosen if chosen > 1 else 0)


@settings(deadline=None)
@given(captions=CAPTIONS, fraction=FRACTIONS, seed=SEEDS)
def test_captions_only_change_places_as_in_the_obvious_form(captions: list[str], fraction: float, seed: int) -> None:
    after = shuffled_captions(_ids(captions), captions, fraction=fraction, seed=seed)
    assert after == oracle.shuffled_captions(_ids(captions), captions, fraction=fraction, seed=seed)
    assert Counter(after) == Counter(captions)
    backwards = shuffled_captions(_ids(captions)[::-1], captions[::-1], fraction=fraction, seed=seed)
    assert backwards[::-1] == after
    assert sum(new != old for new, old in zip(after, captions, strict=True)) <= round(fraction * len(captions))


@settings(deadline=None)
@given(captions=CAPTIONS, seed=SEEDS)
def test_as_many_captions_change_as_any_permutation_can_change(captions: list[str], seed: int) -> None:
    after = shuffled_captions(_ids(captions), captions, fraction=1.0, seed=seed)
    most = max(Counter(captions).values(), default=0)
    unavoidable = max(0, 2 * most - len(captions))
    assert sum(new == old for new, old in zip(after, captions, strict=True)) == unavoidable


@settings(deadline=None)
@given(captions=CAPTIONS, fraction=FRACTIONS, seed=SEEDS)
def test_a_permutation_moves_the_chosen_and_may_give_a_caption_back(
    captions: list[str], fraction: float, seed: int
) -> None:
    after = shuffled_captions(_ids(captions), captions, fraction=fraction, seed=seed, placing="permutation")
    assert Counter(after) == Counter(captions)
    assert sum(new != old for new, old in zip(after, captions, strict=True)) <= round(fraction * len(captions))


def test_a_permutation_leaves_one_of_the_chosen_in_its_place_on_average() -> None:
    captions = [f"caption {number}" for number in range(60)]
    kept = []
    for seed in range(200):
        after = shuffled_captions(_ids(captions), captions, fraction=0.5, seed=seed, placing="permutation")
        kept.append(30 - sum(new != old for new, old in zip(after, captions, strict=True)))
    assert 0.7 < sum(kept) / len(kept) < 1.3


def test_no_fraction_no_change_and_other_seeds_choose_others() -> None:
    captions = [f"caption {number}" for number in range(100)]
    assert shuffled_captions(_ids(captions), captions, fraction=0.0, seed=0) == captions
    results = {tuple(shuffled_captions(_ids(captions), captions, fraction=0.4, seed=seed)) for seed in range(5)}
    assert len(results) == 5


def test_one_pair_more_moves_few_of_the_chosen() -> None:
    captions = [f"caption {number}" for number in range(200)]
    more = [*captions, "one more"]
    before = shuffled_captions(_ids(captions), captions, fraction=0.4, seed=0)
    after = shuffled_captions(_ids(more), more, fraction=0.4, seed=0)
    moved = sum((a != own) != (b != own) for a, b, own in zip(before, after[:-1], captions, strict=True))
    assert moved <= 2


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_every_pair_is_as_likely_to_be_chosen(fraction: float) -> None:
    captions = [f"caption {number}" for number in range(50)]
    times = Counter[int]()
    for seed in range(200):
        after = shuffled_captions(_ids(captions), captions, fraction=fraction, seed=seed)
        times.update(number for number, (new, old) in enumerate(zip(after, captions, strict=True)) if new != old)
    assert sum(times.values()) == 200 * round(fraction * 50)
    expected, spread = 200 * fraction, (200 * fraction * (1 - fraction)) ** 0.5
    assert all(abs(times[number] - expected) < 5 * spread for number in range(50))
