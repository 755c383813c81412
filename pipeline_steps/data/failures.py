"""What came of every URL of a download: img2dataset's shard tables, counted by cause."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_steps.data.shards import SHARD_ENDING, picture_sizes, shard_tables

CAUSES = ("not_found", "server_error", "timed_out", "truncated", "not_an_image", "too_small", "too_large")
OTHER_MESSAGES_NAMED = 20
# What urllib, http.client, img2dataset and OpenCV say, found by provoking each of them.
_PATTERNS = (
    ("not_found", r"HTTP Error (404|410)\b"),
    ("server_error", r"HTTP Error 5\d\d\b"),
    ("timed_out", r"timed out"),
    ("truncated", r"IncompleteRead"),
    ("too_small", r"image too small"),
    ("too_large", r"image area too large|CV_IO_MAX_IMAGE_(PIXELS|WIDTH|HEIGHT)"),
    ("not_an_image", r"Image decoding error|buf\.empty\(\)"),
)


@dataclass(frozen=True)
class Outcome:
    """Counts of URLs: asked for, fetched, failed by cause, failed in another way by message, not reported at all."""

    urls: int
    succeeded: int
    failures: dict[str, int]
    other: dict[str, int]
    lost: int
    bytes: int

    @property
    def success_fraction(self) -> float:
        """Fetched pictures over URLs, in [0, 1]."""
        return self.succeeded / self.urls

    def causes(self) -> dict[str, int]:
        """Failures by cause, `other` and `lost` included; with `succeeded` they add up to `urls`."""
        return self.failures | {"other": sum(self.other.values()), "lost": self.lost}

    def report(self) -> dict[str, Any]:
        """The outcome as JSON values; messages beyond the twenty most frequent are one entry."""
        named = dict(Counter(self.other).most_common(OTHER_MESSAGES_NAMED))
        rest = sum(self.other.values()) - sum(named.values())
        return {
            "urls": self.urls,
            "succeeded": self.succeeded,
            "success_fraction": self.success_fraction,
            "failures": {**self.failures, "other": named | ({"(messages not named here)": rest} if rest else {})},
            "lost": self.lost,
            "bytes": self.bytes,
        }


def classify(message: str) -> str:
    """One of CAUSES for img2dataset's error message, or "other".

    A page of HTML, bytes of another kind and a picture damaged inside all reach img2dataset as bytes that cannot be
    decoded, so all are `not_an_image`.
    """
    return next((cause for cause, pattern in _PATTERNS if re.search(pattern, message)), "other")


def read_outcome(shards: Path, *, asked: int, refused_urls: int) -> Outcome:
    """Count the rows of img2dataset's folder `shards`, for `asked` URLs and `refused_urls` more that were not asked.

    `bytes` are those of the pictures; of tar shards they are those of the whole tars, captions and headers included.
    """
    counts, other, succeeded, size = Counter(dict.fromkeys(CAUSES, 0)), Counter[str](), 0, 0
    for name, table in shard_tables(shards, ["key", "status", "error_message"]):
        sizes = picture_sizes(shards / name)
        tar = shards / f"{name}{SHARD_ENDING}"
        size += tar.stat().st_size if tar.is_file() else 0
        for row in table.to_pylist():
            if row["status"] == "success":
                succeeded += 1
                size += sizes.get(row["key"], ("", 0))[1]
                continue
            message = " ".join((row["error_message"] or "no message").split())
            cause = classify(message)
            (other if cause == "other" else counts)[message if cause == "other" else cause] += 1
    lost = asked - succeeded - counts.total() - other.total()
    if refused_urls:
        other["not an http(s) URL, so not asked for"] = refused_urls
    return Outcome(asked + refused_urls, succeeded, dict(counts), dict(other), lost, size)
