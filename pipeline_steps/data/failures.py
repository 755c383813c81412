"""What came of every URL of a download: img2dataset's shard tables, counted by cause."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_steps.data.shards import SHARD_ENDING, picture_sizes, shard_tables

CAUSES = (
    "not_found", "server_error", "timed_out", "truncated", "not_an_image", "too_small", "too_large", "not_allowed",
)  # fmt: skip
OTHER_MESSAGES_NAMED = 20
_NOT_NAMED = "(messages not named here)"
# What urllib, http.client, img2dataset, OpenCV and bounded_http.py say, found by provoking each of them.
_PATTERNS = (
    ("not_found", r"HTTP Error (404|410)\b"),
    ("server_error", r"HTTP Error 5\d\d\b"),
    ("timed_out", r"timed out"),
    ("truncated", r"IncompleteRead"),
    ("too_small", r"image too small"),
    ("not_allowed", r"not allowed|disallowed"),
    ("too_large", r"too large|CV_IO_MAX_IMAGE_(PIXELS|WIDTH|HEIGHT)"),
    ("not_an_image", r"Image decoding error|buf\.empty\(\)"),
)
# What may well succeed an hour later, beyond causes: the server is busy, or the network or its names are away.
_PASSING_CAUSES = ("server_error", "timed_out", "truncated")
_PASSING = (
    r"HTTP Error (408|425|429)\b|Connection (reset|refused|aborted)|Remote end closed|Network is unreachable|"
    r"No route to host|Temporary failure in name resolution|EOF occurred"
)


@dataclass(frozen=True)
class Outcome:
    """Counts of URLs: asked for, fetched, failed by cause, failed in another way by message, not reported at all.

    `recovered` are those of the fetched that failed at first, in passing. Each URL counts once.
    """

    urls: int
    succeeded: int
    recovered: int
    failures: dict[str, int]
    other: dict[str, int]
    lost: int
    bytes: int

    @property
    def success_fraction(self) -> float:
        """Fetched pictures over URLs, in [0, 1]; 1 without URLs."""
        return self.succeeded / self.urls if self.urls else 1.0

    def causes(self) -> dict[str, int]:
        """Failures by cause, `other` and `lost` included; with `succeeded` they add up to `urls`."""
        return self.failures | {"other": sum(self.other.values()), "lost": self.lost}

    def listed(self) -> str:
        """The causes that there were, the most frequent first."""
        ordered = sorted(self.causes().items(), key=lambda item: -item[1])
        return ", ".join(f"{cause} {count}" for cause, count in ordered if count)

    def report(self) -> dict[str, Any]:
        """The outcome as JSON values; messages beyond the twenty most frequent are one entry."""
        messages = {message: count for message, count in self.other.items() if message != _NOT_NAMED}
        named = dict(Counter(messages).most_common(OTHER_MESSAGES_NAMED))
        rest = sum(self.other.values()) - sum(named.values())
        return {
            "urls": self.urls,
            "succeeded": self.succeeded,
            "recovered": self.recovered,
            "success_fraction": self.success_fraction,
            "failures": {**self.failures, "other": named | ({_NOT_NAMED: rest} if rest else {})},
            "lost": self.lost,
            "bytes": self.bytes,
        }


def falls_short(outcome: Outcome, least: float | None) -> bool:
    """Whether fewer than the fraction `least` of the URLs gave a picture, or none of them did.

    None is for a part, which is judged with the others: it falls short where there was no picture and something may
    be away in passing, such as the network of a machine.
    """
    if least is not None:
        return outcome.success_fraction < least or outcome.succeeded == 0
    passing = sum(outcome.failures[cause] for cause in _PASSING_CAUSES) + outcome.lost
    return outcome.succeeded == 0 and (passing > 0 or any(is_passing(message) for message in outcome.other))


def shortfall(outcome: Outcome, least: float | None) -> str:
    """What the user is told of an outcome that falls short, with the remedies."""
    asks = f"; download_images.min_success_fraction = {least} asks for more" if least else ""
    return (
        f"{outcome.succeeded} of {outcome.urls} URLs gave a picture ({outcome.success_fraction:.1%}){asks}. Causes: "
        f"{outcome.listed()}. Check the network and the URL list; raise download_images.timeout_seconds or retries "
        f"against slow servers{'; or lower min_success_fraction to go on with what there is' if least else ''}."
    )


def classify(message: str) -> str:
    """One of CAUSES for img2dataset's error message, or "other".

    A page of HTML, bytes of another kind and a picture damaged inside all reach img2dataset as bytes that cannot be
    decoded, so all are `not_an_image`.
    """
    return next((cause for cause, pattern in _PATTERNS if re.search(pattern, message)), "other")


def sum_of_reports(reports: Iterable[Mapping[str, Any]]) -> Outcome:
    """The outcome of several downloads together, out of their `Outcome.report`."""
    sums, failures, other = Counter[str](), Counter(dict.fromkeys(CAUSES, 0)), Counter[str]()
    for report in reports:
        sums.update({name: report[name] for name in ("urls", "succeeded", "recovered", "lost", "bytes")})
        failures.update({cause: report["failures"][cause] for cause in CAUSES})
        other.update(report["failures"]["other"])
    return Outcome(
        sums["urls"], sums["succeeded"], sums["recovered"], dict(failures), dict(other), sums["lost"], sums["bytes"]
    )


def is_passing(message: str) -> bool:
    """Whether img2dataset's error message tells of a failure that another try may not meet."""
    return classify(message) in _PASSING_CAUSES or re.search(_PASSING, message) is not None


def failed_in_passing(shards: Path, numbers: range, asked: pa.Table, samples_per_shard: int) -> pa.Table:
    """The rows of `asked`, fetched as the shards `numbers`, that failed for a passing reason, in their order.

    A row's place is in its key, whose last digits count within the shard. The URL of the shard's own table is not used:
    an earlier run may have had the bundled pictures under another port.
    """
    keys_per_shard = 10 ** math.ceil(math.log10(samples_per_shard))
    places = sorted(
        (int(name) - numbers.start) * samples_per_shard + int(row["key"]) % keys_per_shard
        for name, table in shard_tables(shards, ["key", "status", "error_message"])
        if int(name) in numbers
        for row in table.to_pylist()
        if row["status"] != "success" and is_passing(row["error_message"] or "")
    )
    return asked.take(pa.array(places, pa.int64()))


def read_outcome(
    shards: Path, *, asked: int, refused_urls: int, shards_of_list: int = 1, retry_passes: int = 0
) -> Outcome:
    """Count the rows of img2dataset's folder `shards`, for `asked` URLs and `refused_urls` more that were not asked.

    Shards from `shards_of_list` on are those of later passes: what failed in passing before the last pass counts
    there. `bytes` are those of the pictures; of tar shards they are those of the whole tars, captions and headers
    included.
    """
    counts, other, size = Counter(dict.fromkeys(CAUSES, 0)), Counter[str](), 0
    succeeded, recovered = 0, 0
    for name, table in shard_tables(shards, ["key", "status", "error_message"]):
        sizes = picture_sizes(shards / name)
        tar = shards / f"{name}{SHARD_ENDING}"
        size += tar.stat().st_size if tar.is_file() else 0
        turn = int(name) // shards_of_list if retry_passes else 0
        for row in table.to_pylist():
            if row["status"] == "success":
                succeeded += 1
                recovered += turn > 0
                size += sizes.get(row["key"], ("", 0))[1]
                continue
            message = " ".join((row["error_message"] or "no message").split())
            if turn < retry_passes and is_passing(message):
                continue
            cause = classify(message)
            (other if cause == "other" else counts)[message if cause == "other" else cause] += 1
    lost = asked - succeeded - counts.total() - other.total()
    if refused_urls:
        other["not an http(s) URL, so not asked for"] = refused_urls
    return Outcome(asked + refused_urls, succeeded, recovered, dict(counts), dict(other), lost, size)
