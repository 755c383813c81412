from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.data.image_check import BadPicture, Picture
from pipeline_steps.data.selection import fitted_caption
from tests.oracles import selection as oracle
from tests.unit.data.made_tables import built, manifest_settings

RED, BLUE = Picture("a" * 64, 10, 12, 1), Picture("b" * 64, 10, 12, -2)
PICTURES: dict[str, Picture | BadPicture] = {
    "red.png": RED,
    "copy.png": RED,
    "blue.png": BLUE,
    "bad.png": BadPicture("undecodable", "cut short"),
}


def _kept(rows: list[tuple[str, str]], **changes: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    found, counts, _ = built(rows, PICTURES, manifest_settings(**changes))
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    counted = {reason: count for reason, count in counts.items() if count}
    return sorted((row["image_path"], row["clean_caption"]) for row in found), counted


def test_rows_of_bad_pictures_and_empty_captions_go() -> None:
    rows = [("red.png", "x"), ("bad.png", "x"), ("blue.png", " \n")]
    assert _kept(rows) == ([("red.png", "x")], {"bad_picture": 1, "empty_caption": 1})
    assert _kept(rows, drop_empty_captions=False) == ([("blue.png", " \n"), ("red.png", "x")], {"bad_picture": 1})


def test_of_duplicates_the_first_row_stays_where_config_says_so() -> None:
    rows = [("red.png", "x"), ("copy.png", "x"), ("copy.png", "y"), ("blue.png", "x")]
    assert _kept(rows) == ([("blue.png", "x"), ("copy.png", "y"), ("red.png", "x")], {"duplicate_pair": 1})
    assert _kept(rows, drop_duplicate_images=True) == (
        [("blue.png", "x"), ("red.png", "x")],
        {"duplicate_pair": 1, "duplicate_image": 1},
    )
    kept, counts = _kept(rows, drop_duplicate_pairs=False)
    assert len(kept) == 4
    assert counts == {}


def test_long_captions_are_cut_or_dropped() -> None:
    rows = [("red.png", "one two three"), ("blue.png", "short")]
    assert _kept(rows, max_caption_characters=9) == ([("blue.png", "short"), ("red.png", "one two")], {"truncated": 1})
    dropped = _kept(rows, max_caption_characters=9, long_captions="drop")
    assert dropped == ([("blue.png", "short")], {"long_caption": 1})


def test_ids_come_from_picture_and_whole_caption_and_are_unique() -> None:
    chosen = manifest_settings(drop_duplicate_pairs=False, max_caption_characters=3)
    rows, _, _ = built([(name, "long one") for name in ("red.png", "copy.png", "blue.png")], PICTURES, chosen)
    identity = hashlib.sha256(f"{'a' * 64}\nlong one".encode()).hexdigest()[:16]
    assert {row["id"]: row["image_path"] for row in rows if row["sha256"] == RED.sha256} == {
        identity: "red.png",
        f"{identity}-2": "copy.png",
    }


def test_many_copies_of_a_pair_are_numbered_in_the_order_of_their_rows_and_sorted_as_text() -> None:
    pictures = {f"{number}.png": RED for number in range(12)}
    chosen = manifest_settings(drop_duplicate_pairs=False)
    rows, _, _ = built([(path, "x") for path in pictures], pictures, chosen)
    assert [row["id"][16:] for row in rows] == ["", "-10", "-11", "-12", *(f"-{number}" for number in range(2, 10))]
    assert all(row["image_path"] == f"{int(row['id'][17:] or 1) - 1}.png" for row in rows)


CAPTIONS = st.sampled_from(["", " ", "x", "y", "one two three", "one two four", "\u2003", "\x1f", "a\0b"]) | st.text(
    max_size=20
)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([*PICTURES, "green.png", "last.png"]), CAPTIONS), max_size=40),
    drops=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    characters=st.integers(1, 15),
    long_captions=st.sampled_from(["truncate", "drop"]),
    validation=st.floats(0.01, 0.99),
    noise=st.tuples(st.floats(0, 1), st.integers(0, 2**32)),
)
def test_the_manifest_is_that_of_the_obvious_form(
    rows: list[tuple[str, str]],
    drops: tuple[bool, bool, bool],
    characters: int,
    long_captions: str,
    validation: float,
    noise: tuple[float, int],
) -> None:
    chosen = manifest_settings(
        drop_duplicate_pairs=drops[0], drop_duplicate_images=drops[1], drop_empty_captions=drops[2],
        max_caption_characters=characters, long_captions=long_captions, validation_fraction=validation,
        noise={"fraction": noise[0], "seed": noise[1]},
    )  # fmt: skip
    pictures = PICTURES | {"green.png": Picture("c" * 64, 3, 4, 3), "last.png": Picture("d" * 64, 5, 6, 4)}
    expected, counts = oracle.manifest(rows, pictures, chosen)
    found, found_counts, _ = built(rows, pictures, chosen)
    assert found_counts == counts
    assert found == expected


@pytest.mark.parametrize(
    ("caption", "limit", "fitted"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two"),
        ("one two three", 7, "one two"),
        ("one two three", 8, "one two"),
        ("one two", 2, "on"),
        ("  one two  ", 7, "one two"),
        ("abcdefgh", 5, "abcde"),
        (" kept as it is ", 15, " kept as it is "),
    ],
)
def test_captions_are_cut_between_words_where_possible(caption: str, limit: int, fitted: str) -> None:
    assert fitted_caption(caption, limit) == fitted


@given(caption=st.text(max_size=60), limit=st.integers(1, 50))
def test_a_fitted_caption_is_short_enough_and_a_start_of_the_caption(caption: str, limit: int) -> None:
    fitted = fitted_caption(caption, limit)
    assert len(fitted) <= limit
    assert caption.strip().startswith(fitted.strip())
    assert bool(fitted.strip()) == bool(caption.strip())


def _pairs(count: int) -> tuple[list[tuple[str, str]], dict[str, Picture | BadPicture]]:
    """Rows of pictures two by two with equal content, and the pictures."""
    hashes = [hashlib.sha256(str(number // 2).encode()).hexdigest() for number in range(count)]
    rows = [(f"{number}.png", f"c {number}") for number in range(count)]
    return rows, {path: Picture(sha256, 4, 4, 5) for (path, _), sha256 in zip(rows, hashes, strict=True)}


def test_the_split_follows_the_picture_in_about_the_share_asked_for() -> None:
    rows, pictures = _pairs(4000)
    found, _, _ = built(rows, pictures, manifest_settings(validation_fraction=0.25))
    held_out = {row["image_path"] for row in found if row["split"] == "validation"}
    assert {row["split"] for row in found} == {"train", "validation"}
    assert 860 < len(held_out) < 1140
    more, _, _ = built(rows, pictures, manifest_settings(validation_fraction=0.5))
    assert held_out < {row["image_path"] for row in more if row["split"] == "validation"}


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 120), fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_noise_stays_in_the_training_split_and_the_truth_is_beside_it(count: int, fraction: float, seed: int) -> None:
    pairs, pictures = _pairs(count)
    chosen = manifest_settings(validation_fraction=0.3, noise={"fraction": fraction, "seed": seed})
    rows, _, _ = built(pairs, pictures, chosen)
    assert {row["image_path"]: row["clean_caption"] for row in rows} == dict(pairs)
    assert all(row["is_noisy"] == (row["caption"] != row["clean_caption"]) for row in rows)
    assert not any(row["is_noisy"] for row in rows if row["split"] == "validation")
    training = [row for row in rows if row["split"] == "train"]
    assert sorted(row["caption"] for row in training) == sorted(row["clean_caption"] for row in training)
    moved = round(fraction * len(training))
    assert sum(row["is_noisy"] for row in rows) == (moved if moved > 1 else 0)
    assert all(len({row["split"] for row in rows if row["sha256"] == one["sha256"]}) == 1 for one in rows)


def test_the_first_training_rows_are_a_fair_sample_of_noise_and_sources() -> None:
    """Partial data is the first rows by id: of every size, noise and place in the source come in their shares."""
    count, fraction = 4000, 0.4
    rows = [(f"{number}.png", f"c {number}") for number in range(count)]
    pictures = {path: Picture(hashlib.sha256(path.encode()).hexdigest(), 4, 4, 6) for path, _ in rows}
    chosen = manifest_settings(validation_fraction=0.05, noise={"fraction": fraction, "seed": 0})
    found, _, _ = built(rows, pictures, chosen)
    training = [row for row in found if row["split"] == "train"]
    for size in (500, 1000, 2000, 3000):
        part = training[:size]
        spread = 5 * (size * fraction * (1 - fraction)) ** 0.5
        assert abs(sum(row["is_noisy"] for row in part) - fraction * size) < spread
        early = sum(int(row["image_path"].removesuffix(".png")) < count / 2 for row in part)
        assert abs(early - size / 2) < 5 * (size / 4) ** 0.5
