from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from pipeline_steps.data.assembly import manifest_report, refusal
from pipeline_steps.data.database import insert
from pipeline_steps.data.image_check import BadPicture, Picture
from pipeline_steps.data.intake import BROKEN
from pipeline_steps.data.noise import shuffle_captions
from pipeline_steps.data.selection import select_pairs
from tests.unit.data.made_tables import built, database, fill, manifest_settings

GOOD = {
    f"good {number}.png": Picture(hashlib.sha256(str(number).encode()).hexdigest(), 4, 4, number)
    for number in range(100)
}


def test_the_report_counts_everything_and_names_twenty_bad_pictures() -> None:
    bad = {f"{number:02d}.png": BadPicture("missing", "no such file") for number in range(25)}
    rows = [(path, f"{path} caption, cut") for path in GOOD | bad]
    settings = manifest_settings(max_caption_characters=len("good 0.png caption"), noise={"fraction": 0.4, "seed": 0})
    found, _, report = built(rows, GOOD | bad, settings)
    assert report["bad_pictures"] == {"missing": 25, "undecodable": 0, "too_large": 0}
    assert report["bad_pictures_named"] == [
        {"image_path": f"{number:02d}.png", "cause": "missing", "message": "no such file"} for number in range(20)
    ]
    assert (report["rows"], report["pictures"], report["pairs"]) == (125, 125, 100)
    assert report["dropped"] == dict.fromkeys(report["dropped"], 0) | {"bad_picture": 25}
    assert report["truncated_captions"] == 100
    splits = [row["split"] for row in found]
    assert report["splits"] == {split: splits.count(split) for split in ("train", "validation")}
    assert report["noise"]["noisy_pairs"] == sum(row["is_noisy"] for row in found)
    assert report["noise"]["noisy_pairs"] == report["noise"]["chosen_pairs"] == round(0.4 * report["splits"]["train"])


def test_what_is_broken_in_shards_is_counted_and_named() -> None:
    settings = manifest_settings()
    with database() as it:
        fill(it, [(path, "x") for path in GOOD], GOOD, 400)
        rows = [
            {"shard": "0.tar", "key": f"{number:02d}", "cause": "duplicate_key", "message": "m"} for number in range(22)
        ]
        insert(it, "broken", pa.Table.from_pylist(rows, schema=BROKEN))
        counts = select_pairs(it, settings)
        report = manifest_report(it, counts, settings.noise, shuffle_captions(it, settings.noise))
    assert {cause: count for cause, count in report["broken_in_shards"].items() if count} == {"duplicate_key": 22}
    assert report["broken_in_shards_named"] == rows[:20]


@pytest.mark.parametrize(
    ("bad", "pairs", "words"),
    [(5, 20, None), (6, 20, ["6 of 100 pictures", "undecodable 6", "bad.png", "max_bad_fraction = 0.05"]),
     (0, 0, ["of 100 rows 0 are left", "empty_caption 90", "broken in shards: truncated_shard 1"])],
)  # fmt: skip
def test_too_many_bad_pictures_and_an_empty_manifest_are_refused(bad: int, pairs: int, words: list[str] | None) -> None:
    report = {
        "rows": 100,
        "pictures": 100,
        "bad_pictures": {"undecodable": bad, "missing": 0},
        "bad_pictures_named": [{"image_path": "bad.png", "cause": "undecodable", "message": "cut short"}],
        "broken_in_shards": {"truncated_shard": 1},
        "lost_with_shards": 1,
        "dropped": {"empty_caption": 90},
        "splits": {"train": pairs, "validation": 2},
    }
    problem = refusal(report, manifest_settings())
    if words is None:
        assert problem is None
    else:
        assert problem is not None
        assert all(word in problem for word in words)


def test_too_much_that_is_broken_in_shards_is_refused_with_the_first_of_it() -> None:
    named = [{"shard": "3.tar", "key": "x", "cause": "unreadable_caption", "message": "no text"}]
    report = {
        "rows": 90, "pictures": 90, "bad_pictures": {}, "bad_pictures_named": [], "dropped": {},
        "broken_in_shards": {"unreadable_caption": 9, "truncated_shard": 1}, "broken_in_shards_named": named,
        "lost_with_shards": 1, "splits": {"train": 80, "validation": 10},
    }  # fmt: skip
    problem = refusal(report, manifest_settings())
    assert problem is not None
    assert (
        "10 samples of shards are broken (unreadable_caption 9, truncated_shard 1, with about 1 samples lost)"
        in problem
    )
    assert "3.tar x (unreadable_caption: no text)" in problem
    assert "Fetch these shards again" in problem
    names = {"broken_in_shards": {"truncated_shard": 0, "other_endings": 10}, "lost_with_shards": 0}
    renamed = refusal(report | names, manifest_settings())
    assert "Rename their members to KEY.jpg and KEY.txt" in str(renamed)
    assert refusal(report | {"broken_in_shards": {"truncated_shard": 1}}, manifest_settings()) is None


@pytest.mark.parametrize(("whole", "lost", "expected"), [(10, 1, 20), (5, 5, 100), (0, 2, 21), (3, 0, 0)])
def test_a_lost_shard_counts_as_the_samples_that_it_had(whole: int, lost: int, expected: int) -> None:
    """Shards of 20 samples; where none is whole, the longest of the cut ones is the best guess, and lost its end."""
    settings = manifest_settings()
    kept = dict.fromkeys((f"lost{number}.tar" for number in range(lost)), 0)
    kept |= {f"whole{number}.tar": 20 for number in range(whole)}
    if not whole and lost:
        kept["lost0.tar"] = 20
    pictures = {f"{shard}/{n}": shard for shard, count in kept.items() for n in range(count)}
    with database() as it:
        fill(it, [(path, "x") for path in GOOD], GOOD, 400)
        it.execute("DELETE FROM pictures")
        for shard in pictures.values():
            it.execute("INSERT INTO pictures (image_path) VALUES (?)", [shard])
        rows = [
            {"shard": name, "key": "", "cause": "truncated_shard", "message": "m"} for name in kept if "lost" in name
        ]
        insert(it, "broken", pa.Table.from_pylist(rows, schema=BROKEN))
        counts = select_pairs(it, settings)
        report = manifest_report(it, counts, settings.noise, shuffle_captions(it, settings.noise))
    assert report["lost_with_shards"] == expected
