from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.core.config import load_section
from pipeline_steps.core.schema import BuildManifestConfig, NoiseConfig
from pipeline_steps.data.image_check import BadPicture, Picture
from pipeline_steps.data.selection import (
    Pair,
    fitted_caption,
    manifest_report,
    manifest_table,
    refusal,
    select_pairs,
    split_of,
)
from tests.unit.data.made_data import section

RED, BLUE = Picture("a" * 64, 10, 12), Picture("b" * 64, 10, 12)
PICTURES = {"red.png": RED, "copy.png": RED, "blue.png": BLUE, "bad.png": BadPicture("undecodable", "cut short")}


def _settings(**changes: object) -> BuildManifestConfig:
    return load_section(section("build_manifest", **changes), "build_manifest", BuildManifestConfig)


def _kept(rows: list[tuple[str, str]], **changes: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    paths, captions = [path for path, _ in rows], [caption for _, caption in rows]
    pairs, counts = select_pairs(paths, captions, PICTURES, _settings(**changes))
    assert [pair.id for pair in pairs] == sorted(pair.id for pair in pairs)
    counted = {reason: count for reason, count in counts.items() if count}
    return sorted((pair.image_path, pair.caption) for pair in pairs), counted


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
    settings = _settings(drop_duplicate_pairs=False, max_caption_characters=3)
    pairs, _ = select_pairs(["red.png", "copy.png", "blue.png"], ["long one"] * 3, PICTURES, settings)
    identity = hashlib.sha256(f"{'a' * 64}\nlong one".encode()).hexdigest()[:16]
    assert {pair.id: pair.image_path for pair in pairs if pair.picture == RED} == {
        identity: "red.png",
        f"{identity}-2": "copy.png",
    }


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


def test_the_split_follows_the_picture_in_about_the_share_asked_for() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000)]
    splits = [split_of(sha256, 0.25) for sha256 in hashes]
    assert set(splits) == {"train", "validation"}
    assert 430 < splits.count("validation") < 570
    more = [split_of(sha256, 0.5) for sha256 in hashes]
    assert all(b == "validation" for a, b in zip(splits, more, strict=True) if a == "validation")


def _pairs(count: int) -> list[Pair]:
    hashes = [hashlib.sha256(str(number // 2).encode()).hexdigest() for number in range(count)]
    return [
        Pair(f"{number:016x}", f"{number}.png", Picture(one, 4, 4), f"c {number}") for number, one in enumerate(hashes)
    ]


@given(count=st.integers(0, 120), fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_noise_stays_in_the_training_split_and_the_truth_is_beside_it(count: int, fraction: float, seed: int) -> None:
    pairs = _pairs(count)
    rows = manifest_table(pairs, 0.3, NoiseConfig(fraction, seed)).to_pylist()
    assert [row["clean_caption"] for row in rows] == [pair.caption for pair in pairs]
    assert all(row["is_noisy"] == (row["caption"] != row["clean_caption"]) for row in rows)
    assert not any(row["is_noisy"] for row in rows if row["split"] == "validation")
    training = [row for row in rows if row["split"] == "train"]
    assert sorted(row["caption"] for row in training) == sorted(row["clean_caption"] for row in training)
    chosen = round(fraction * len(training))
    assert sum(row["is_noisy"] for row in rows) == (chosen if chosen > 1 else 0)
    assert all(len({row["split"] for row in rows if row["sha256"] == one["sha256"]}) == 1 for one in rows)


def test_the_report_counts_everything_and_names_twenty_bad_pictures() -> None:
    bad = {f"{number:02d}.png": BadPicture("missing", "no such file") for number in range(25)}
    noise = NoiseConfig(0.4, 0)
    report = manifest_report(125, bad | {"a.png": RED}, {**dict.fromkeys(
        ("bad_picture", "empty_caption", "long_caption", "duplicate_pair", "duplicate_image"), 1), "truncated": 7},
        manifest_table(_pairs(100), 0.3, noise), noise)  # fmt: skip
    assert report["bad_pictures"] == {"missing": 25, "undecodable": 0, "too_large": 0}
    assert [one["image_path"] for one in report["bad_pictures_named"]] == [f"{number:02d}.png" for number in range(20)]
    assert (report["rows"], report["pictures"], report["pairs"], report["truncated_captions"]) == (125, 26, 100, 7)
    assert sum(report["splits"].values()) == 100
    assert report["noise"]["noisy_pairs"] == report["noise"]["chosen_pairs"] == round(0.4 * report["splits"]["train"])


@pytest.mark.parametrize(
    ("bad", "pairs", "words"),
    [(5, 20, None), (6, 20, ["6 of 100 pictures", "undecodable 6", "bad.png", "max_bad_fraction = 0.05"]),
     (0, 0, ["of 100 rows 0 are left", "empty_caption 90"])],
)  # fmt: skip
def test_too_many_bad_pictures_and_an_empty_manifest_are_refused(bad: int, pairs: int, words: list[str] | None) -> None:
    report = {
        "rows": 100,
        "pictures": 100,
        "bad_pictures": {"undecodable": bad, "missing": 0},
        "bad_pictures_named": [{"image_path": "bad.png", "cause": "undecodable", "message": "cut short"}],
        "dropped": {"empty_caption": 90},
        "splits": {"train": pairs, "validation": 2},
    }
    problem = refusal(report, _settings())
    if words is None:
        assert problem is None
    else:
        assert problem is not None
        assert all(word in problem for word in words)
