from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_steps.data.failures import (
    OTHER_MESSAGES_NAMED,
    classify,
    failed_in_passing,
    falls_short,
    is_passing,
    read_outcome,
    shortfall,
    sum_of_reports,
)
from tests.unit.data.made_data import write_shard


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("HTTP Error 404: Not Found", "not_found"),
        ("HTTP Error 410: Gone", "not_found"),
        ("HTTP Error 403: Forbidden", "other"),
        ("HTTP Error 503: Service Unavailable", "server_error"),
        ("<urlopen error timed out>", "timed_out"),
        ("<urlopen error [Errno 110] Connection timed out>", "timed_out"),
        ("IncompleteRead(205 bytes read, 205 more expected)", "truncated"),
        ("Image decoding error", "not_an_image"),
        ("OpenCV(4.14.0) error: (-215:Assertion failed) !buf.empty() in function 'imdecode_'", "not_an_image"),
        ("image too small", "too_small"),
        ("image area too large", "too_large"),
        ("OpenCV(4.14.0) loadsave.cpp:79: error: pixels <= CV_IO_MAX_IMAGE_PIXELS in function 'x'\n", "too_large"),
        ("<urlopen error [Errno 111] Connection refused>", "other"),
        ("", "other"),
    ],
)
def test_messages_are_classified(message: str, cause: str) -> None:
    assert classify(message) == cause


def test_an_outcome_adds_up_over_shards_with_lost_and_refused_rows(tmp_path: Path) -> None:
    sound = {"status": "success", "caption": "c"}
    failed = {"status": "failed_to_download", "caption": "c"}
    write_shard(
        tmp_path, "00000", [sound | {"key": "000000000", "number": 0}, sound | {"key": "000000001", "number": 1}]
    )
    write_shard(
        tmp_path,
        "00001",
        [
            failed | {"key": "000010000", "error_message": "HTTP Error 404: Not Found"},
            failed | {"key": "000010001", "error_message": "no\nroute"},
            failed | {"key": "000010002", "error_message": "no route"},
        ],
    )
    outcome = read_outcome(tmp_path, asked=7, refused_urls=1)
    sizes = sum(path.stat().st_size for path in tmp_path.glob("*/*.webp"))
    assert (outcome.urls, outcome.succeeded, outcome.lost, outcome.bytes) == (8, 2, 2, sizes)
    assert outcome.other == {"no route": 2, "not an http(s) URL, so not asked for": 1}
    assert outcome.causes()["not_found"] == 1
    assert outcome.succeeded + sum(outcome.causes().values()) == outcome.urls
    assert outcome.success_fraction == 0.25


def test_rare_messages_are_one_entry_of_the_report(tmp_path: Path) -> None:
    messages = ["frequent"] * 3 + [f"rare {number}" for number in range(30)]
    rows = [
        {"key": f"{number:09d}", "caption": "", "status": "failed_to_download", "error_message": message}
        for number, message in enumerate(messages)
    ]
    write_shard(tmp_path, "00000", rows)
    other = read_outcome(tmp_path, asked=33, refused_urls=0).report()["failures"]["other"]
    assert other["frequent"] == 3
    assert len(other) == OTHER_MESSAGES_NAMED + 1
    assert sum(other.values()) == 33


@pytest.mark.parametrize(
    ("message", "passing"),
    [
        ("HTTP Error 503: Service Unavailable", True),
        ("HTTP Error 429: Too Many Requests", True),
        ("<urlopen error timed out>", True),
        ("IncompleteRead(205 bytes read, 205 more expected)", True),
        ("<urlopen error [Errno 104] Connection reset by peer>", True),
        ("Remote end closed connection without response", True),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", True),
        ("<urlopen error [Errno -2] Name or service not known>", False),
        ("HTTP Error 404: Not Found", False),
        ("HTTP Error 403: Forbidden", False),
        ("Image decoding error", False),
        ("image too small", False),
    ],
)
def test_what_may_pass_is_told_from_what_stays(message: str, passing: bool) -> None:
    assert is_passing(message) == passing


def _row(key: str, message: str | None = None) -> dict[str, str | None]:
    return {"key": key, "caption": "c", "status": "failed" if message else "success", "error_message": message}


def test_a_url_that_was_asked_for_in_two_passes_counts_once(tmp_path: Path) -> None:
    late, gone = "timed out", "HTTP Error 404: Not Found"
    write_shard(tmp_path, "00000", [_row("000000", late), _row("000001", late), _row("000002", gone), _row("000003")])
    write_shard(tmp_path, "00001", [_row("000010", late)])
    write_shard(tmp_path, "00002", [_row("000020"), _row("000021", late), _row("000022", gone)])  # the second pass
    found = read_outcome(tmp_path, asked=5, refused_urls=0, shards_of_list=2, retry_passes=1)
    assert (found.urls, found.succeeded, found.recovered, found.lost) == (5, 2, 1, 0)
    assert (found.failures["timed_out"], found.failures["not_found"]) == (1, 2)
    assert found.succeeded + sum(found.causes().values()) == found.urls
    together = sum_of_reports([found.report(), found.report()])
    assert together.report() == {
        name: value if name == "success_fraction" else _twice(value) for name, value in found.report().items()
    }


def test_rows_that_failed_in_passing_are_found_by_their_place(tmp_path: Path) -> None:
    late, gone = "timed out", "HTTP Error 404: Not Found"
    write_shard(tmp_path, "00004", [_row("000042", late), _row("000040"), _row("000041", gone)])
    write_shard(tmp_path, "00005", [_row("000051", late)])
    write_shard(tmp_path, "00009", [_row("000090", late)])  # a later pass
    asked = pa.table({"url": [f"http://a/{number}" for number in range(5)]})
    assert failed_in_passing(tmp_path, range(4, 9), asked, 3)["url"].to_pylist() == ["http://a/2", "http://a/4"]


def _twice(value: object) -> object:
    return {name: _twice(one) for name, one in value.items()} if isinstance(value, dict) else 2 * value  # type: ignore[operator]


def test_a_part_falls_short_only_where_something_may_be_away_in_passing(tmp_path: Path) -> None:
    assert not falls_short(read_outcome(tmp_path, asked=0, refused_urls=1), None)
    write_shard(tmp_path, "00000", [_row("000000", "HTTP Error 404: Not Found")])
    dead = read_outcome(tmp_path, asked=1, refused_urls=0)
    assert not falls_short(dead, None)
    assert falls_short(dead, 0.0)
    for message in ("timed out", "<urlopen error [Errno 101] Network is unreachable>"):
        write_shard(tmp_path, "00000", [_row("000000", message)])
        assert falls_short(read_outcome(tmp_path, asked=1, refused_urls=0), None)
    write_shard(tmp_path, "00000", [_row("000000", "timed out"), _row("000001")])
    assert not falls_short(read_outcome(tmp_path, asked=2, refused_urls=0), None)


def test_what_is_said_of_a_part_names_no_threshold(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", [_row("000000", "timed out")])
    found = read_outcome(tmp_path, asked=1, refused_urls=0)
    assert shortfall(found, None).startswith("0 of 1 URLs gave a picture (0.0%). Causes: timed_out 1.")


def test_messages_that_reports_do_not_name_add_up(tmp_path: Path) -> None:
    write_shard(tmp_path, "00000", [_row(f"{number:06d}", f"rare {number}") for number in range(50)])
    found = read_outcome(tmp_path, asked=50, refused_urls=0)
    together = sum_of_reports([found.report(), found.report()]).report()
    assert sum(together["failures"]["other"].values()) == 100
