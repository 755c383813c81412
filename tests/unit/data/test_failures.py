from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_steps.data.failures import OTHER_MESSAGES_NAMED, classify, read_outcome
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
