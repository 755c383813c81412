"""Overlaps by comparing every picture with every other: the twin of the search over blocks of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FLAT = 0


class Seen(NamedTuple):
    """A picture: the id of its pair or its row, the sha256 of its bytes in hex, its perceptual hash."""

    id: str | int
    sha256: str
    phash: int


def overlaps(
    training: Sequence[Seen], evaluation: Sequence[Seen], max_distance_bits: int
) -> list[tuple[int, str, str, int, int]]:
    """Row, kind, nearest training id, distance and number of matches of each picture that has any."""
    found = []
    for picture in evaluation:
        same = sorted(str(other.id) for other in training if other.sha256 == picture.sha256)
        if same:
            found.append((int(picture.id), "exact", same[0], 0, len(same)))
            continue
        near = sorted(
            (distance, str(other.id))
            for other in training
            if FLAT not in (picture.phash, other.phash)
            and (distance := bin((picture.phash ^ other.phash) & (2**64 - 1)).count("1")) <= max_distance_bits
        )
        if near:
            found.append((int(picture.id), "near", near[0][1], near[0][0], len(near)))
    return found
